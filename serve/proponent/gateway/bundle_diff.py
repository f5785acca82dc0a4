"""What changed in the reasons between two bundles of the store, by the lists of the samples that both keep."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from proponent.errors import InvalidInputError, NotFoundError, ProponentError, SamplesMissingError
from proponent.gateway.sample_lists import asked_length, asked_measure
from proponent.index.bundle import SAMPLES, Manifest, damage_of, read_manifest
from proponent.index.lifecycle import find_bundle, previous_digest
from proponent.index.lock import BundleLock
from proponent.index.sample_lists import ComparedSample, StoredLists
from proponent.index.samples import Samples
from proponent.index.store import Store
from proponent.index.tombstones import Tombstones
from proponent.options import Measure, Side
from proponent.request_options import MEASURES
from proponent.v1 import explanation_pb2 as pb

_NUMBERS = {measure: number for number, measure in MEASURES.items()}


@dataclass(frozen=True)
class _Stored:
    manifest: Manifest
    lists: StoredLists


def diff_bundles(
    store: Store, request: pb.DiffBundlesRequest, served: str, *, samples: bool
) -> pb.DiffBundlesResponse:
    """Compares two bundles, which nothing removes meanwhile.

    Args:
        store: Where they lie.
        request: Which they are, and how they are compared.
        served: Digest of the bundle that answers calls.
        samples: Whether the reply may say which samples were compared.

    Raises:
        NotFoundError: A digest names no bundle.
        InvalidInputError: The bundles have different classes, or ``top_k`` is too large.
        SamplesMissingError: One keeps no samples, or they have none in common.
        CorruptBundleError: A bundle cannot be read.
    """
    measure = asked_measure(request.measure)
    with _held(store, request.model, _base(store, request), "base") as base_path:
        base = _read(base_path, measure)
    with _held(store, request.model, request.other or served, "other") as other_path:
        other = _read(other_path, measure)
    if base.manifest.class_names != other.manifest.class_names:
        raise InvalidInputError("the bundles have different class names", field="other", reason="CLASSES_DIFFER")
    return _reply(request, measure, base, other, samples=samples)


def _reply(
    request: pb.DiffBundlesRequest, measure: Measure, base: _Stored, other: _Stored, *, samples: bool
) -> pb.DiffBundlesResponse:
    most = min(base.lists.lists.depth, other.lists.lists.depth)
    top_k = asked_length(request, most)
    compared = base.lists.compared(other.lists, top_k)
    if not compared:
        raise SamplesMissingError("the bundles keep no samples in common", field="other")
    return pb.DiffBundlesResponse(
        base=base.manifest.digest,
        other=other.manifest.digest,
        measure=_NUMBERS[measure],  # type: ignore[arg-type]
        top_k=top_k,
        max_top_k=most,
        samples=len(compared),
        overall=_summary(compared),
        per_class=_per_class(compared, base.manifest.class_names),
        per_sample=[_sample(each) for each in compared] if samples else [],
    )


def _base(store: Store, request: pb.DiffBundlesRequest) -> str:
    try:
        return request.base or previous_digest(store, request.model)
    except NotFoundError as error:
        raise NotFoundError(error.message, field="base", reason="BUNDLE_UNKNOWN") from None


@contextmanager
def _held(store: Store, model: str, digest: str, field: str) -> Iterator[Path]:
    """A bundle that no garbage collection takes for the length of a block."""
    unknown = NotFoundError(f"digest {digest!r} names no bundle", field=field, reason="BUNDLE_UNKNOWN")
    try:
        path = find_bundle(store, model, digest)
        lock = BundleLock(path)
    except NotFoundError as error:
        raise NotFoundError(error.message, field=field, reason="BUNDLE_UNKNOWN") from None
    except FileNotFoundError:
        raise unknown from None
    try:
        yield path
    except ProponentError:
        if not path.is_dir():  # it was taken between being found and being held
            raise unknown from None
        raise
    finally:
        lock.release()


def _read(path: Path, measure: Measure) -> _Stored:
    manifest = read_manifest(path)
    if not manifest.samples:
        raise SamplesMissingError(f"bundle {path.name[:12]} keeps no samples: rebuild it with a held-out data set")
    problem = damage_of(path, SAMPLES, manifest.files[SAMPLES])
    if problem is not None:
        raise problem
    with closing(Samples.open(path / SAMPLES)) as samples:
        return _Stored(manifest, StoredLists.read(samples, measure, Tombstones.beside(path).ids()))


def _per_class(compared: Sequence[ComparedSample], names: Sequence[str]) -> list[pb.ClassDiff]:
    by_class: dict[int, list[ComparedSample]] = {}
    for each in compared:
        by_class.setdefault(each.sample.predicted_class_id, []).append(each)
    return [
        pb.ClassDiff(class_id=class_id, label=names[class_id], summary=_summary(members))
        for class_id, members in sorted(by_class.items())
    ]


def _summary(compared: Sequence[ComparedSample]) -> pb.DiffSummary:
    return pb.DiffSummary(
        samples=len(compared),
        overlap=sum(each.overlap for each in compared) / len(compared),
        predictions_changed=sum(each.changed for each in compared),
    )


def _sample(each: ComparedSample) -> pb.SampleDiff:
    return pb.SampleDiff(
        sample_id=each.sample.sample_id,
        class_id=each.sample.class_id,
        overlap=each.overlap,
        base_class_id=each.sample.predicted_class_id,
        other_class_id=each.other_class_id,
        entered_proponents=each.entered[Side.PROPONENTS],
        left_proponents=each.left[Side.PROPONENTS],
        entered_opponents=each.entered[Side.OPPONENTS],
        left_opponents=each.left[Side.OPPONENTS],
    )
