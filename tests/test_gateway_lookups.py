"""Samples, examples, counts, bundles and their difference, by gRPC and by HTTP alike: what is told, and to whom."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

import tiny
from gateway_fakes import Service, broken
from listening import Listening, opened
from proponent.errors import (
    CorruptBundleError,
    InvalidInputError,
    NotFoundError,
    PermissionDeniedError,
    SamplesMissingError,
)
from proponent.gateway.auth import Scope
from proponent.gateway.auth.authenticator import ANYBODY
from proponent.gateway.call import CallContext
from proponent.gateway.http.app import create_app
from proponent.gateway.http.reply import to_json
from proponent.gateway.lookup_calls import LookupCalls
from proponent.gateway.served_model import Readiness, open_models
from proponent.gateway.settings import Settings
from proponent.index import bundle as files
from proponent.index.bundle import read_manifest
from proponent.index.forgetting import forget
from proponent.index.lifecycle import collect, remove_bundle
from proponent.index.lock import is_held
from proponent.index.samples import Samples
from proponent.index.store import Store
from proponent.inspection.diff import diff
from proponent.options import Measure
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.spec import load_spec
from proponent.v1 import explanation_pb2 as pb

ALL = frozenset(Scope)
OPEN = {"allow_examples": True, "allow_thumbnails": True, "allow_samples": True}
COUNT = 60


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with three bundles: two that differ in their damping, and one without samples, which came first."""
    root = tmp_path_factory.mktemp("store")
    path = tiny.hold_out(tiny.project(root / "project", count=COUNT), 12)
    for curvature, samples in (
        ({"kind": "exact", "damping": 9.0}, 0),
        ({"kind": "exact"}, 200),
        ({"kind": "exact", "damping": 0.5}, 200),
    ):
        rebuild(
            load_spec(tiny.change(path, curvature=curvature, samples=samples)),
            Store(root / "store"),
            RebuildOptions(quiet=True),
        )
    return root / "store"


class Served:
    """The calls over a copy of a store; ``ask`` runs one of them."""

    def __init__(self, template: Path, directory: Path, **settings: Any) -> None:
        self.store = Store(shutil.copytree(template, directory / "copy"))
        self.settings = Settings(store=self.store.root, **settings)
        self.models = open_models(self.settings)
        self.calls = LookupCalls(self.models, self.settings)

    def ask(self, name: str, scopes: frozenset[Scope] = ALL, **fields: Any) -> Any:
        method = self.calls.lookups[name]
        request = method.request(**{"model": "toy", **fields})
        return asyncio.run(method.run(request, CallContext("id", replace(ANYBODY, scopes=scopes))))

    @property
    def digests(self) -> tuple[str, str, str]:
        """The current bundle, the one before, and the one without samples."""
        pointer = self.store.pointer("toy")
        known = {path.name for path in self.store.bundles("toy").iterdir()}
        [rest] = known - {pointer["digest"], pointer["previous"]}
        return pointer["digest"], pointer["previous"], rest

    def close(self) -> None:
        for model in self.models.values():
            model.close()


@pytest.fixture
def served(template: Path, tmp_path: Path) -> Iterator[Served]:
    found = Served(template, tmp_path, **OPEN)
    yield found
    found.close()


def walk(served: Served, name: str, rows: str, **fields: Any) -> list[Any]:
    """All rows of a list, page by page."""
    found: list[Any] = []
    token = ""
    while True:
        reply = served.ask(name, page_token=token, **fields)
        found += getattr(reply, rows)
        token = reply.next_page_token
        if not token:
            assert len(found) == reply.total
            return found


# Samples -----------------------------------------------------------------------------------------------------


def test_samples_are_listed_without_and_told_with_their_inputs(served: Served) -> None:
    listed = walk(served, "ListSamples", "samples", page_size=5)
    assert [each.sample_id for each in listed] == [f"held/{n}" for n in range(12)]
    assert not any(each.WhichOneof("input") or each.thumbnail for each in listed)
    seen = walk(served, "ListSamples", "samples", page_size=7, view=pb.VIEW_THUMBNAIL)
    assert all(each.thumbnail.startswith(b"\x89PNG") and not each.WhichOneof("input") for each in seen)
    whole = served.ask("GetSample", sample_id="held/3").sample
    assert whole.encoded_image.startswith(b"\x89PNG") and whole.label == tiny.CLASSES[whole.class_id]
    with pytest.raises(NotFoundError) as caught:
        served.ask("GetSample", sample_id="toy/3")
    assert (caught.value.reason, caught.value.field) == ("SAMPLE_UNKNOWN", "sample_id")


def test_samples_are_told_only_where_the_operator_and_the_token_allow_it(template: Path, tmp_path: Path) -> None:
    closed = Served(template, tmp_path, allow_examples=True, allow_thumbnails=True)
    for name, fields in (("ListSamples", {}), ("GetSample", {"sample_id": "held/3"})):
        assert closed.calls.lookups[name].scope is Scope.EXAMPLES
        with pytest.raises(PermissionDeniedError) as caught:
            closed.ask(name, **fields)
        assert caught.value.reason == "SAMPLES_DISABLED"
    assert not closed.ask("DiffBundles").per_sample
    closed.close()


def test_a_model_says_what_the_caller_may_see(served: Served) -> None:
    told = served.ask("GetModel")
    assert (told.allow_examples, told.allow_thumbnails, told.allow_samples, told.samples) == (True, True, True, 12)
    assert told.train_accuracy == read_manifest(served.store.current("toy")).train_accuracy > 0
    less = served.ask("GetModel", scopes=frozenset({Scope.EXPLAIN}))
    assert (less.allow_examples, less.allow_thumbnails, less.allow_samples) == (False, False, False)


def test_a_bundle_without_samples_says_so(served: Served) -> None:
    served.store.point("toy", served.digests[2])
    old = Served(served.store.root, served.store.root.parent / "old", **OPEN)
    for name, fields in (
        ("ListSamples", {}),
        ("GetSample", {"sample_id": "x"}),
        ("ListFrequentExamples", {}),
        ("DiffBundles", {"base": old.store.pointer("toy")["digest"]}),
    ):
        with pytest.raises(SamplesMissingError) as caught:
            old.ask(name, **fields)
        assert (caught.value.reason, caught.value.code) == ("SAMPLES_MISSING", 9)
    assert old.ask("GetModel").samples == 0
    old.close()


# Training examples -------------------------------------------------------------------------------------------


def test_examples_are_filtered_ordered_and_shown_as_asked(served: Served) -> None:
    everything = walk(served, "ListExamples", "examples", page_size=7)
    assert len(everything) == COUNT
    suspects = served.ask("ListSuspects", limit=COUNT).suspects
    assert [each.example_id for each in everything] == [each.example_id for each in suspects]
    assert [each.is_label_issue for each in everything] == [each.is_label_issue for each in suspects]
    assert not any(each.source or each.thumbnail for each in everything)
    some = walk(served, "ListExamples", "examples", class_ids=[0, 2], order_by=pb.ORDER_BY_CLASS, page_size=9)
    assert [each.class_id for each in some] == sorted(each.class_id for each in everything if each.class_id != 1)
    told = served.ask("ListExamples", page_size=1, view=pb.VIEW_METADATA).examples[0]
    assert told.source and not told.thumbnail
    shown = served.ask("ListExamples", page_size=1, view=pb.VIEW_THUMBNAIL).examples[0]
    assert shown.source and shown.thumbnail
    assert shown == served.ask("GetExample", example_id=shown.example_id).example


def test_forgotten_examples_are_in_no_list_and_no_count(served: Served) -> None:
    first = served.ask("ListExamples", page_size=1).examples[0]
    frequent = served.ask("ListFrequentExamples", limit=1).examples[0].example
    forget(served.store, "toy", [first.example_id, frequent.example_id])
    gone = {first.example_id, frequent.example_id}
    left = walk(served, "ListExamples", "examples", page_size=20)
    assert len(left) == COUNT - len(gone) and not gone & {each.example_id for each in left}
    counted = served.ask("SummarizeExamples")
    assert counted.total == sum(each.count for each in counted.classes) == len(left)
    assert sum(counted.histogram.counts) + counted.histogram.zeros == len(left)
    named = served.ask("ListFrequentExamples", limit=COUNT)
    assert not gone & {each.example.example_id for each in named.examples}
    assert sum(each.count for each in named.examples) == named.slots
    for listed in served.ask("DiffBundles").per_sample:
        assert not gone & {*listed.entered_proponents, *listed.left_proponents, *listed.entered_opponents}
    assert {each.forgotten for each in served.ask("ListBundles").bundles} == {len(gone)}


@pytest.mark.parametrize(
    ("flags", "view", "reason"),
    [
        ({}, pb.VIEW_ID_ONLY, "EXAMPLES_DISABLED"),
        ({"allow_thumbnails": True, "allow_samples": True}, pb.VIEW_THUMBNAIL, "EXAMPLES_DISABLED"),
        ({"allow_examples": True, "allow_samples": True}, pb.VIEW_THUMBNAIL, "THUMBNAILS_DISABLED"),
    ],
)
def test_examples_are_listed_only_with_permission(
    template: Path, tmp_path: Path, flags: dict[str, bool], view: int, reason: str
) -> None:
    closed = Served(template, tmp_path, **flags)
    with pytest.raises(PermissionDeniedError) as caught:
        closed.ask("ListExamples", view=view)
    assert caught.value.reason == reason
    assert closed.ask("SummarizeExamples").total == COUNT, "counts name nobody"
    closed.close()


def test_frequent_examples_disclose_what_explain_would(template: Path, tmp_path: Path) -> None:
    for number, flags in enumerate(({}, {"allow_thumbnails": True}, {"allow_examples": True})):
        closed = Served(template, tmp_path / str(number), **flags)
        [plain] = closed.ask("ListFrequentExamples", limit=1).examples
        assert plain.example.example_id and not plain.example.source and not plain.example.thumbnail
        for view, flag in ((pb.VIEW_METADATA, "allow_examples"), (pb.VIEW_THUMBNAIL, "allow_thumbnails")):
            if flag in flags:
                [told] = closed.ask("ListFrequentExamples", limit=1, view=view).examples
                assert bool(told.example.source) is ("allow_examples" in flags)
                assert bool(told.example.thumbnail) is (view == pb.VIEW_THUMBNAIL)
            else:
                with pytest.raises(PermissionDeniedError):
                    closed.ask("ListFrequentExamples", limit=1, view=view)
            with pytest.raises(PermissionDeniedError):
                closed.ask("ListFrequentExamples", scopes=frozenset({Scope.EXPLAIN}), view=view)
        closed.close()


@pytest.mark.parametrize("measure", list(Measure))
def test_frequencies_are_those_of_the_lists(served: Served, measure: Measure) -> None:
    number = pb.Measure.Value(f"MEASURE_{measure.name}")
    with closing(Samples.open(served.store.current("toy") / files.SAMPLES)) as samples:
        lists = samples.lists(measure).by_position.values()
        expected: dict[str, int] = {}
        for sides in lists:
            for one in [x for side in sides.values() for x in side[:4]]:
                expected[one.example_id] = expected.get(one.example_id, 0) + 1
    reply = served.ask("ListFrequentExamples", measure=number, top_k=4, limit=1000)
    assert {each.example.example_id: each.count for each in reply.examples} == expected
    counts = [each.count for each in reply.examples]
    assert counts == sorted(counts, reverse=True)
    assert (reply.lists, reply.slots, reply.distinct) == (24, sum(counts), len(counts))
    assert (reply.top_k, reply.max_top_k, reply.samples) == (4, 50, 12)
    sides = [served.ask("ListFrequentExamples", measure=number, top_k=4, side=side).slots for side in (1, 2)]
    assert sum(sides) == reply.slots and all(sides)


# What is refused ---------------------------------------------------------------------------------------------

REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    ("ListExamples", {"page_size": 10_001}, "page_size", "INVALID_INPUT"),
    ("ListExamples", {"page_size": 2_001, "view": pb.VIEW_THUMBNAIL}, "page_size", "INVALID_INPUT"),
    ("ListExamples", {"page_size": -1}, "page_size", "INVALID_INPUT"),
    ("ListExamples", {"class_ids": [0, 3]}, "class_ids", "CLASS_UNKNOWN"),
    ("ListExamples", {"class_ids": [-1]}, "class_ids[0]", "INVALID_INPUT"),
    ("ListExamples", {"predicted_class_ids": [7]}, "predicted_class_ids", "CLASS_UNKNOWN"),
    ("ListExamples", {"min_self_influence": float("nan")}, "min_self_influence", "INVALID_INPUT"),
    ("ListExamples", {"min_self_influence": 2.0, "max_self_influence": 1.0}, "max_self_influence", "INVALID_INPUT"),
    ("ListExamples", {"order_by": 9}, "order_by", "INVALID_INPUT"),
    ("ListExamples", {"view": 9}, "view", "INVALID_INPUT"),
    ("ListExamples", {"page_token": "x"}, "page_token", "PAGE_TOKEN_INVALID"),
    ("ListExamples", {"page_token": "x" * 257}, "page_token", "INVALID_INPUT"),
    ("ListSamples", {"page_token": "///"}, "page_token", "PAGE_TOKEN_INVALID"),
    ("ListSamples", {"page_size": 2_001, "view": pb.VIEW_THUMBNAIL}, "page_size", "INVALID_INPUT"),
    ("GetSample", {"sample_id": ""}, "sample_id", "INVALID_INPUT"),
    ("SummarizeExamples", {"bins": 1001}, "bins", "INVALID_INPUT"),
    ("ListFrequentExamples", {"measure": 8}, "measure", "MEASURE_UNKNOWN"),
    ("ListFrequentExamples", {"side": 8}, "side", "INVALID_INPUT"),
    ("ListFrequentExamples", {"top_k": 51}, "top_k", "TOP_K_INVALID"),
    ("ListFrequentExamples", {"top_k": 0}, "top_k", "TOP_K_INVALID"),
    ("ListFrequentExamples", {"limit": 2_001, "view": pb.VIEW_THUMBNAIL}, "limit", "INVALID_INPUT"),
    ("DiffBundles", {"top_k": 51}, "top_k", "TOP_K_INVALID"),
]


@pytest.fixture(scope="module")
def shared(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    found = Served(template, tmp_path_factory.mktemp("shared"), **OPEN)
    yield found
    found.close()


@pytest.mark.parametrize(("name", "fields", "field", "reason"), REFUSED)
def test_a_bad_request_is_refused_by_field(
    shared: Served, name: str, fields: dict[str, Any], field: str, reason: str
) -> None:
    with pytest.raises(InvalidInputError) as caught:
        shared.ask(name, **fields)
    assert (caught.value.field, caught.value.reason) == (field, reason)


def test_every_call_names_an_unknown_model(shared: Served) -> None:
    for name in shared.calls.lookups.keys() - {"ListModels"}:
        fields = {"GetExample": {"example_id": "x"}, "GetSample": {"sample_id": "x"}}.get(name, {})
        with pytest.raises(NotFoundError) as caught:
            shared.ask(name, model="other", **fields)
        assert caught.value.reason == "MODEL_UNKNOWN"


def test_a_token_holds_for_its_own_list_and_bundle(served: Served) -> None:
    token = served.ask("ListExamples", page_size=3).next_page_token
    assert served.ask("ListExamples", page_size=5, page_token=token, view=pb.VIEW_THUMBNAIL).examples
    for other in (
        {"disagreeing": True},
        {"class_ids": [1]},
        {"order_by": pb.ORDER_BY_EXAMPLE_ID},
        {"min_self_influence": 0.0},
    ):
        with pytest.raises(InvalidInputError) as caught:
            served.ask("ListExamples", page_token=token, **other)
        assert caught.value.reason == "PAGE_TOKEN_INVALID"
    foreign = served.ask("ListSamples", page_size=3).next_page_token
    with pytest.raises(InvalidInputError):
        served.ask("ListExamples", page_token=foreign)
    served.store.point("toy", served.digests[1])
    other = Served(served.store.root, served.store.root.parent / "switched", **OPEN)
    for name, stale in (("ListExamples", token), ("ListSamples", foreign)):
        with pytest.raises(InvalidInputError) as caught:
            other.ask(name, page_token=stale)
        assert caught.value.reason == "PAGE_TOKEN_STALE"
    other.close()


# Bundles -----------------------------------------------------------------------------------------------------


def test_bundles_are_listed_as_they_are(served: Served) -> None:
    current, previous, rest = served.digests
    listed = served.ask("ListBundles").bundles
    assert {each.digest for each in listed} == {current, previous, rest}
    assert [each.created for each in listed] == sorted((each.created for each in listed), reverse=True)
    assert {each.digest: (each.is_current, each.is_previous) for each in listed} == {
        current: (True, False),
        previous: (False, True),
        rest: (False, False),
    }
    for each in listed:
        path = served.store.bundles("toy") / each.digest
        known = read_manifest(path)
        assert (each.damping, each.train_size, each.samples) == (known.damping, COUNT, known.samples)
        assert each.size_bytes == sum(file.stat().st_size for file in path.iterdir())
        assert each.error == "" and each.audit.fields.keys() == known.audit.keys()


def test_damaged_bundles_say_why_and_hide_no_other(served: Served) -> None:
    current, previous, rest = served.digests
    bundles = served.store.bundles("toy")
    (bundles / previous / files.MANIFEST).write_text("{}")
    (bundles / rest / files.ROWS).unlink()
    (bundles / "not-a-digest").mkdir()
    (served.store.directory("toy") / "current").write_text("nonsense")
    listed = {each.digest: each for each in served.ask("ListBundles").bundles}
    assert set(listed) == {current, previous, rest}
    assert "manifest" in listed[previous].error and files.ROWS in listed[rest].error
    assert str(served.store.root) not in listed[previous].error + listed[rest].error
    assert not listed[current].error and not any(each.is_current for each in listed.values())


def test_a_bundle_that_is_collected_meanwhile_is_left_out(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    rest = served.digests[2]
    read = read_manifest

    def reading(path: Path) -> Any:
        if path.name == rest and path.is_dir():
            remove_bundle(path)
        return read(path)

    monkeypatch.setattr("proponent.gateway.stored_bundles.read_manifest", reading)
    assert rest not in {each.digest for each in served.ask("ListBundles").bundles}


def test_a_difference_is_that_of_the_command_line(served: Served) -> None:
    """The models are the same, so that predictions agree; the command line computes the lists anew."""
    current, previous, _ = served.digests
    bundles = served.store.bundles("toy")
    for measure in Measure:
        found = served.ask("DiffBundles", measure=f"MEASURE_{measure.name}", top_k=5)
        expected = diff(bundles / previous, bundles / current, queries=12, top_k=5, measure=measure)
        assert (found.base, found.other, found.samples, found.top_k) == (previous, current, 12, 5)
        assert found.overall.overlap == pytest.approx(expected.overall.overlap)
        assert found.overall.predictions_changed == expected.overall.predictions_changed == 0
        assert {each.label: each.summary.samples for each in found.per_class} == {
            label: each.queries for label, each in expected.per_class.items()
        }
        for each in found.per_class:
            assert each.summary.overlap == pytest.approx(expected.per_class[each.label].overlap)
        assert found.overall.overlap == pytest.approx(sum(each.overlap for each in found.per_sample) / 12)
        overlaps = [each.overlap for each in found.per_sample]
        assert overlaps == sorted(overlaps)
        least = found.per_sample[0]
        assert least.overlap < 1 and (least.entered_proponents or least.entered_opponents)
    assert found.overall.overlap < 1, "nothing to compare"


def test_a_difference_needs_two_bundles_of_the_same_classes(served: Served) -> None:
    current, previous, _ = served.digests
    assert served.ask("DiffBundles", base=current[:6], other=current).overall.overlap == 1
    for fields, field in (({"base": "abc"}, "base"), ({"base": "0" * 64}, "base"), ({"other": "../x"}, "other")):
        with pytest.raises(NotFoundError) as caught:
            served.ask("DiffBundles", **fields)
        assert (caught.value.reason, caught.value.field) == ("BUNDLE_UNKNOWN", field)
    path = served.store.bundles("toy") / previous
    known = read_manifest(path)
    digest = files.write_manifest(path, replace(known, class_names=["x", "y", "z"]))
    path.rename(path.with_name(digest))
    with pytest.raises(InvalidInputError) as refused:
        served.ask("DiffBundles", base=digest)
    assert refused.value.reason == "CLASSES_DIFFER"
    with pytest.raises(NotFoundError):
        served.ask("DiffBundles")  # the one before is gone


def test_damaged_samples_are_not_compared(served: Served) -> None:
    path = served.store.bundles("toy") / served.digests[1] / files.SAMPLES
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(CorruptBundleError, match=r"samples\.sqlite"):
        served.ask("DiffBundles")


def test_a_bundle_that_is_compared_is_not_collected(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    previous = served.digests[1]
    served.store.point("toy", served.digests[0])
    seen: list[tuple[bool, list[str]]] = []
    read = read_manifest

    def reading(path: Path) -> Any:
        if path.name == previous:
            seen.append((is_held(path), collect(served.store, "toy").in_use))
        return read(path)

    monkeypatch.setattr("proponent.gateway.bundle_diff.read_manifest", reading)
    assert served.ask("DiffBundles", base=previous).samples == 12
    assert seen == [(True, [previous])]
    assert collect(served.store, "toy").removed == [previous]


# Transports --------------------------------------------------------------------------------------------------

CALLS: list[tuple[str, dict[str, Any], str]] = [
    ("ListSamples", {"page_size": 3, "view": pb.VIEW_THUMBNAIL}, "samples?page_size=3&view=thumbnail"),
    ("GetSample", {"sample_id": "held/3"}, "samples/held/3"),
    (
        "ListExamples",
        {"class_ids": [0, 2], "order_by": pb.ORDER_BY_CLASS, "page_size": 4, "min_self_influence": 1e-3},
        "examples?class_ids=0&classIds=2&order_by=class&page_size=4&min_self_influence=0.001",
    ),
    ("ListExamples", {"disagreeing": True}, "examples?disagreeing=true"),
    ("SummarizeExamples", {"bins": 7}, "examples:summary?bins=7"),
    (
        "ListFrequentExamples",
        {"measure": pb.MEASURE_L_RELATIF, "side": pb.SIDE_OPPONENTS, "top_k": 3, "limit": 2},
        "frequentExamples?measure=l-relatif&side=opponents&top_k=3&limit=2",
    ),
    ("ListBundles", {}, "bundles"),
    ("DiffBundles", {"measure": pb.MEASURE_THETA_RELATIF, "top_k": 2}, "bundles:diff?measure=theta-relatif&top_k=2"),
    ("ListSuspects", {"limit": 2}, "suspects?limit=2"),
]
BAD: list[tuple[str, str, int]] = [
    ("examples?disagreeing=maybe", "disagreeing", 400),
    ("examples?page_size=many", "page_size", 400),
    ("examples?order_by=size", "order_by", 400),
    ("examples?page_size=1&page_size=2", "page_size", 400),
    ("examples?colour=red", "colour", 400),
    ("examples?model=other", "model", 400),
    ("samples/", "sample_id", 404),
    ("samples/none", "sample_id", 404),
    ("bundles:diff?base=ffff", "base", 404),
]


def test_both_transports_give_the_same(template: Path, tmp_path: Path) -> None:
    served = Served(template, tmp_path, **OPEN)

    async def ask(at: Listening) -> None:
        at.service.models["toy"] = served.models["toy"]
        async with grpc.aio.insecure_channel(at.grpc_address) as channel, at.client() as client:
            for name, fields, path in CALLS:
                request = served.calls.lookups[name].request(model="toy", **fields)
                reply = await getattr(at.stub(channel), name)(request)
                answer = await client.get(f"/v1/models/toy/{path}")
                assert (answer.status_code, answer.json()) == (200, to_json(reply)), path
            for path, field, status in BAD:
                answer = await client.get(f"/v1/models/toy/{path}")
                assert (answer.status_code, answer.json()["field"]) == (status, field), answer.text

    async def inside() -> None:
        (tmp_path / "fakes").mkdir()
        async with opened(tmp_path / "fakes", **OPEN) as at:
            at.service.calls.settings = served.settings
            await ask(at)

    asyncio.run(inside())
    served.close()


def test_models_are_listed_alike_with_those_that_cannot_answer(tmp_path: Path) -> None:
    async def inside() -> None:
        async with opened(tmp_path) as at:
            at.service.models["broken"] = broken(CorruptBundleError("rows of /srv/store/broken/rows.faiss"))
            async with grpc.aio.insecure_channel(at.grpc_address) as channel, at.client() as client:
                first, second = (await at.stub(channel).ListModels(pb.ListModelsRequest())).models
                told = (await client.get("/v1/models")).json()
            assert (first.name, first.ready, first.unavailable_reason) == ("broken", False, "BUNDLE_CORRUPT")
            assert second == pb.ModelStatus(name="toy", ready=True)
            assert "/srv" not in first.unavailable_detail and "rows.faiss" in first.unavailable_detail
            why = {"reason": first.unavailable_reason, "detail": first.unavailable_detail}
            assert told["unavailable"] == {"broken": why} and told["models"] == ["broken", "toy"]
            assert told["ready"] == {"broken": False, "toy": True}

    asyncio.run(inside())


def test_openapi_describes_every_parameter_and_reply(tmp_path: Path) -> None:
    with closing(Service(tmp_path)) as service:
        app = create_app(service.calls, service.metrics, Readiness(service.models), service.settings)
        calls, paths = service.calls, app.openapi()["paths"]
    for name, _, path in CALLS:
        route = path.partition("?")[0].replace("held/3", "{sample_id}")
        described = paths[f"/v1/models/{{model}}/{route}"]["get"]
        request, reply = calls.methods[name].request.DESCRIPTOR, name.replace("List", "List") + "Response"
        assert {each["name"] for each in described["parameters"]} == {field.name for field in request.fields}
        schema = described["responses"]["200"]["content"]["application/json"]["schema"]
        assert set(schema["properties"]) == {field.name for field in getattr(pb, reply).DESCRIPTOR.fields}
        assert "default" in described["responses"] and described["description"]
