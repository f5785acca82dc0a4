"""Questions about one image file, answered in this process by the same worker code that TorchServe runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from proponent.errors import InvalidInputError, NotFoundError, error_kind
from proponent.explainer import Explainer
from proponent.options import Estimator, Measure, Redundancy
from proponent.v1 import explanation_pb2 as pb
from proponent.v1.worker_pb2 import WorkerReply, WorkerRequest
from proponent.worker.batch import Item, Worker
from proponent.worker.messages import ESTIMATORS, MEASURES, REDUNDANCIES


def explain_file(
    bundle: Path,
    image: Path,
    *,
    top_k: int,
    measures: Sequence[str] | None = None,
    class_id: int | None = None,
    against: int | None = None,
    diverse: str | None = None,
    gamma: float | None = None,
    max_influence_loss: float | None = None,
    unscaled: bool = False,
) -> pb.ExplainResponse:
    """Explains an image file with a bundle, thumbnails included.

    Raises:
        NotFoundError: No such image.
        InvalidInputError: The image or an option is unusable.
    """
    request = query_message(image, measures=measures, class_id=class_id, against=against)
    request.top_k = top_k
    request.view = pb.VIEW_THUMBNAIL
    if diverse is not None:
        request.diversity.CopyFrom(_diversity(diverse, gamma, max_influence_loss, unscaled))
    return answer(bundle, WorkerRequest(explain=request)).explain


def _diversity(term: str, gamma: float | None, max_influence_loss: float | None, unscaled: bool) -> pb.Diversity:
    if gamma is not None and max_influence_loss is not None:
        raise InvalidInputError(
            f"gamma {gamma:g} and max_influence_loss {max_influence_loss:g} were both given, expected one of them",
            field="diversity.strength",
        )
    strength = {"gamma": gamma, "max_influence_loss": max_influence_loss}
    given = {name: value for name, value in strength.items() if value is not None}
    return pb.Diversity(redundancy=redundancy_number(term), unscaled=unscaled, **given)  # type: ignore[arg-type]


def query_message(
    image: Path, *, measures: Sequence[str] | None = None, class_id: int | None = None, against: int | None = None
) -> pb.ExplainRequest:
    """A question about an image file.

    Raises:
        NotFoundError: No such image.
        InvalidInputError: An unknown measure, or a contrast without the class argued for.
    """
    if not image.is_file():
        raise NotFoundError(f"image not found: {image.absolute()}", field="image")
    return pb.ExplainRequest(
        model="local",
        encoded_image=image.read_bytes(),
        measures=[measure_number(name) for name in measures or ()],  # type: ignore[misc]
        target=target_message(class_id, against),
    )


def answer(bundle: Path, request: WorkerRequest) -> WorkerReply:
    """The reply of a worker that has loaded a bundle; its error is raised."""
    [reply] = Worker(Explainer.load(bundle)).handle([Item(request, as_json=False)])
    if reply.HasField("error"):
        error = reply.error
        raise error_kind(error.code, error.reason)(error.message, field=error.field, reason=error.reason)
    return reply


def measure_number(name: str) -> int:
    """Number of a measure by its name, e.g. ``theta-relatif``."""
    for number, measure in MEASURES.items():
        if measure.value == name:
            return number
    known = ", ".join(measure.value for measure in Measure)
    raise InvalidInputError(f"measure {name!r} is unknown, expected one of {known}", field="measures")


def redundancy_number(name: str) -> int:
    """Number of a redundancy term by its name, e.g. ``facility-location``."""
    for number, redundancy in REDUNDANCIES.items():
        if redundancy.value == name:
            return number
    known = ", ".join(redundancy.value for redundancy in Redundancy)
    raise InvalidInputError(f"redundancy {name!r} is unknown, expected one of {known}", field="diversity.redundancy")


def estimator_number(name: str) -> int:
    """Number of an estimator of removals by its name, e.g. ``second-order``."""
    for number, estimator in ESTIMATORS.items():
        if estimator.value == name:
            return number
    known = ", ".join(estimator.value for estimator in Estimator)
    raise InvalidInputError(f"estimator {name!r} is unknown, expected one of {known}", field="estimator")


def target_message(class_id: int | None, against: int | None) -> pb.Target | None:
    """A target message of two optional class ids."""
    if against is not None:
        if class_id is None:
            raise InvalidInputError("a contrast needs the class argued for as well", field="target.contrast")
        return pb.Target(contrast=pb.Contrast(for_class_id=class_id, against_class_id=against))
    return pb.Target(class_id=class_id) if class_id is not None else None
