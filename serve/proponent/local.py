"""Explaining one image file in this process, by the same worker code that TorchServe runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from proponent.errors import InvalidInputError, NotFoundError
from proponent.explainer import Explainer
from proponent.messages import MEASURES
from proponent.results import Measure
from proponent.v1 import explanation_pb2 as pb
from proponent.v1.worker_pb2 import WorkerRequest
from proponent.worker import Item, Worker


def explain_file(
    bundle: Path,
    image: Path,
    *,
    top_k: int,
    measures: Sequence[str] | None = None,
    class_id: int | None = None,
    against: int | None = None,
) -> pb.ExplainResponse:
    """Explains an image file with a bundle, thumbnails included.

    Raises:
        NotFoundError: No such image.
        InvalidInputError: The image or an option is unusable.
    """
    if not image.is_file():
        raise NotFoundError(f"image not found: {image.absolute()}", field="image")
    request = pb.ExplainRequest(
        model="local",
        encoded_image=image.read_bytes(),
        top_k=top_k,
        measures=[measure_number(name) for name in measures or ()],  # type: ignore[misc]
        target=target_message(class_id, against),
        view=pb.VIEW_THUMBNAIL,
    )
    [reply] = Worker(Explainer.load(bundle)).answer([Item(WorkerRequest(explain=request), as_json=False)])
    if reply.HasField("error"):
        raise InvalidInputError(reply.error.message, field=reply.error.field, reason=reply.error.reason)
    return reply.explain


def measure_number(name: str) -> int:
    """Number of a measure by its name, e.g. ``theta-relatif``."""
    for number, measure in MEASURES.items():
        if measure.value == name:
            return number
    known = ", ".join(measure.value for measure in Measure)
    raise InvalidInputError(f"measure {name!r} is unknown, expected one of {known}", field="measures")


def target_message(class_id: int | None, against: int | None) -> pb.Target | None:
    """A target message of two optional class ids."""
    if against is not None:
        if class_id is None:
            raise InvalidInputError("a contrast needs the class argued for as well", field="target.contrast")
        return pb.Target(contrast=pb.Contrast(for_class_id=class_id, against_class_id=against))
    return pb.Target(class_id=class_id) if class_id is not None else None
