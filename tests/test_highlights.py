"""The weight of a word is what the score loses without it, on both sides; what cannot be weighed is said."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad
from torch.nn import functional

import tiny_text
import wordy
from proponent.attribution.gradients.layers import flatten_parameters, unflatten_parameters
from proponent.errors import HighlightsUnavailableError
from proponent.explainer import Explainer
from proponent.explainer.highlights import Asked, highlighted, spans, without
from proponent.index.store import Store
from proponent.options import ExplainOptions, Measure, Target, View
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.spec import load_spec
from proponent.text import Text
from proponent.v1 import explanation_pb2 as pb
from proponent.v1.worker_pb2 import WorkerReply, WorkerRequest
from proponent.worker.batch import Item, Worker


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a fine film", ["a", "fine", "film"]),
        ("Don't stop: it’s 9.5!", ["Don't", "stop", ":", "it’s", "9", ".", "5", "!"]),
        ("映画は good", ["映", "画", "は", "good"]),
        ("naïve 🎬\u202e x", ["naïve", "🎬", "\u202e", "x"]),
        (" \n", []),
    ],
)
def test_words_are_found_and_left_out(text: str, words: list[str]) -> None:
    found = spans(text)
    assert [text[start:end] for start, end in found] == words
    for span in found:
        assert without(text, span).split() == (text[: span[0]] + text[span[1] :]).split()


def opened(spec: Path, name: str) -> Explainer:
    store = Store(spec.parent / "store")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rebuild(load_spec(spec), store, RebuildOptions(quiet=True))
    return Explainer.load(store.current(name))


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> Explainer:
    return opened(wordy.project(tmp_path_factory.mktemp("linear"), wordy.TEXT), wordy.TEXT)


def phi(explainer: Explainer, text: str, class_id: int) -> Tensor:
    """By torch.func in float64."""
    classifier, layers = explainer.classifier, explainer.classifier.find_layers()
    inputs, model = classifier.transform(text)[None].double(), copy.deepcopy(classifier.model).double()
    values = {name: tensor.detach() for name, tensor in model.named_parameters()}

    def loss(parameters: Tensor) -> Tensor:
        outputs = functional_call(model, {**values, **unflatten_parameters(parameters, layers)}, (inputs,))
        return functional.cross_entropy(outputs, torch.tensor([class_id]))

    return grad(loss)(flatten_parameters(values, layers)) @ explainer._embedder.embedding.basis.double()  # type: ignore[attr-defined]


@pytest.mark.parametrize("target", [Target(0), Target(1, 0)])
def test_a_weight_is_what_the_score_loses_without_the_word(linear: Explainer, target: Target) -> None:
    text, ids = "a good film , not a bad story", ["opinion/0", "opinion/7"]

    def asked(text: str) -> Tensor:
        found = phi(linear, text, target.class_id or 0)
        return found if target.against is None else found - phi(linear, text, target.against)

    found = linear.highlight_examples(Text(text), ids, ExplainOptions(target=target, view=View.THUMBNAIL))
    for pair in found.highlights:
        entry = linear.catalog.get(pair.example_id)
        assert entry is not None
        held = phi(linear, pair.text, entry.class_id)
        score = float(asked(text) @ held)
        assert pair.score == pytest.approx(score, rel=1e-4)
        assert [text[word.start : word.end] for word in pair.asked] == text.split()
        for word in pair.asked:
            lost = score - float(asked(text[: word.start] + text[word.end :]) @ held)
            assert word.weight == pytest.approx(lost, rel=1e-4, abs=1e-4 * abs(score))
        for word in pair.example:
            shorter = pair.text[: word.start] + pair.text[word.end :]
            lost = score - float(asked(text) @ phi(linear, shorter, entry.class_id))
            assert word.weight == pytest.approx(lost, rel=1e-4, abs=1e-4 * abs(score))
        assert any(abs(word.weight) > 0.01 * abs(score) for word in (*pair.asked, *pair.example))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Explainer:
    return opened(tiny_text.project(tmp_path_factory.mktemp("served")), "words")


def asked(text: str = "a good film", ids: Sequence[str] = ("text/1", "text/4"), **query: Any) -> WorkerRequest:
    """A request as the gateway sends it."""
    request = pb.ExplainRequest(**{"model": "words", "text": text, **query})
    return WorkerRequest(highlight=pb.HighlightExamplesRequest(query=request, example_ids=ids))


def answered(explainer: Explainer, *requests: WorkerRequest) -> list[WorkerReply]:
    return Worker(explainer).handle([Item(request, as_json=False) for request in requests])


def test_a_worker_weighs_words_and_shows_what_the_view_asks_for(served: Explainer) -> None:
    hidden, shown = (r.highlight for r in answered(served, asked(), asked(view=pb.VIEW_THUMBNAIL)))
    found = served.explain([Text("a good film")], [ExplainOptions((Measure.INFLUENCE,), top_k=24)])[0]
    scores = {i.example_id: i.score for r in found.results for i in (*r.proponents, *r.opponents)}  # type: ignore[union-attr]
    assert [each.example_id for each in hidden.highlights] == ["text/1", "text/4"]
    for own, whole in zip(hidden.highlights, shown.highlights, strict=True):
        assert ["a good film"[word.start : word.end] for word in own.asked] == ["a", "good", "film"]
        assert own.asked == whole.asked and not own.text and not own.example and not own.unavailable
        assert own.score == pytest.approx(scores[own.example_id], rel=5e-3)  # rows are kept in half precision
        assert [whole.text[word.start : word.end] for word in whole.example] == whole.text.split()
        assert any(abs(word.weight) > 1e-6 for word in whole.example)


def test_a_contrast_and_a_class_are_explained(served: Explainer) -> None:
    contrast = pb.Target(contrast=pb.Contrast(for_class_id=0, against_class_id=1))
    either, one, other = (
        reply.highlight
        for reply in answered(
            served,
            asked(target=contrast),
            asked(target=pb.Target(class_id=0)),
            asked(target=pb.Target(class_id=1)),
        )
    )
    assert (either.target_class_id, either.against_class_id, one.HasField("against_class_id")) == (0, 1, False)
    for both, this, that in zip(either.highlights, one.highlights, other.highlights, strict=True):
        for word, mine, theirs in zip(both.asked, this.asked, that.asked, strict=True):
            assert word.weight == pytest.approx(mine.weight - theirs.weight, rel=1e-3, abs=1e-4)


def test_what_is_unusable_is_named_and_its_batch_mates_are_answered(served: Explainer) -> None:
    bad = {
        ("example_ids", "EXAMPLE_UNKNOWN"): asked(ids=["text/1", "text/999"]),
        ("target.class_id", "CLASS_UNKNOWN"): asked(target=pb.Target(class_id=7)),
        ("text", "TEXT_EMPTY"): asked(" "),
        ("query.tensors", "INPUT_WRONG_KIND"): asked(text="", tensors=pb.NamedTensors()),
    }
    *replies, good = answered(served, *bad.values(), asked())
    assert [(reply.error.field, reply.error.reason) for reply in replies] == list(bad)
    assert good.highlight.highlights[0].asked


def test_a_text_that_is_not_whole_has_no_weights(served: Explainer) -> None:
    entry = served.catalog.by_rows([0, 1, 2], contents=True)
    cut = [replace(entry[0], text="good " * 500), replace(entry[1], text=""), entry[2]]
    asked_text = Asked("a film", served.accept(Text("a film")), ExplainOptions(view=View.THUMBNAIL))
    long, lost, whole = highlighted(served._embedder, served.manifest, cut, asked_text).highlights
    assert "only the beginning" in long.unavailable and not long.asked and math.isnan(long.score)
    assert "no text" in lost.unavailable and not lost.asked
    assert whole.asked and whole.text == entry[2].text and not whole.unavailable


def test_distilled_scores_are_refused(served: Explainer) -> None:
    manifest = replace(served.manifest, teachers=2)
    with pytest.raises(HighlightsUnavailableError, match="distilled"):
        highlighted(served._embedder, manifest, [], Asked("a", served.accept(Text("a")), ExplainOptions()))
