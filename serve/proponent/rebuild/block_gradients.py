"""The gradients of a block as each pass over the training set needs them: kept by an earlier one, or computed."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from proponent.attribution.curvature.ekfac import LambdaAccumulator
from proponent.attribution.curvature.fisher import Accumulator, fisher_gradients
from proponent.attribution.curvature.kfac import CovarianceAccumulator
from proponent.attribution.curvature.rotation import rotated_bytes
from proponent.attribution.gradients.capture import CaptureSession
from proponent.attribution.gradients.formed import least_bytes
from proponent.attribution.gradients.layer_gradients import LayerGradients
from proponent.attribution.gradients.scaling import scaled_output_gradient
from proponent.rebuild.context import RebuildContext
from proponent.rebuild.joint_sample import takes_all
from proponent.rebuild.kept_gradients import Captured, Labelled, LabelledRotated
from proponent.rebuild.rows_stage import scaled_gradients
from proponent.rebuild.training_set import Batch


def add_covariances(context: RebuildContext, accumulator: CovarianceAccumulator, batch: Batch) -> None:
    """Adds a block to the sums of A and S; its gradients stay for the passes to come."""
    if not _is_single(context):
        _add_passes(context, accumulator, batch)
        return
    fisher, labelled = _captured(context, batch)
    accumulator.update([fisher], len(batch.labels))
    later = _for_later(context, Captured(fisher, labelled))
    if later is not None and context.gradients.has_room(later.least_bytes()):
        context.gradients.add(batch, later.smallest())


def add_eigenvalues(context: RebuildContext, accumulator: LambdaAccumulator, batch: Batch) -> None:
    """Adds a block to the sums of squared coordinates; its gradients at the labels stay for the rows.

    They do so in the eigenbases, unless there is room for them as they are alone.
    """
    if not _is_single(context):
        _add_passes(context, accumulator, batch)
        return
    kept = context.gradients.take(batch)
    found = kept if isinstance(kept, Captured) else Captured(*_captured(context, batch))
    labelled = found.labelled
    if labelled is not None and context.gradients.has_room(sum(map(rotated_bytes, found.fisher.values()))):
        rotated = accumulator.update_beside(found.fisher, labelled.gradients)
        context.gradients.add(batch, LabelledRotated(labelled.scaled, rotated))
        return
    accumulator.update([found.fisher], len(batch.labels))
    if labelled is not None:
        context.gradients.add(batch, labelled.smallest())


def labelled(context: RebuildContext, batch: Batch, *, is_last: bool) -> Labelled | LabelledRotated:
    """Gradients of a block at its labels; what is kept of it goes with the last pass that asks."""
    kept = context.gradients.take(batch) if is_last else context.gradients.find(batch)
    if isinstance(kept, Captured):
        kept = kept.labelled
    return kept or Labelled(*scaled_gradients(context.classifier, context.layers, batch))


def _is_single(context: RebuildContext) -> bool:
    """Whether the curvature takes one backward of each block: several are taken one by one, and none is kept."""
    settings = context.settings
    return settings.fisher == "empirical" or (settings.fisher == "true" and settings.draws == 1)


def _add_passes(context: RebuildContext, accumulator: Accumulator, batch: Batch) -> None:
    with CaptureSession(context.classifier.model, context.layers) as session:
        accumulator.update(_passes(context, session, session.forward(batch.inputs), batch), len(batch.labels))


def _passes(
    context: RebuildContext, session: CaptureSession, outputs: Tensor, batch: Batch
) -> Iterator[LayerGradients]:
    settings, loss = context.settings, context.classifier.loss
    return fisher_gradients(
        session,
        loss,
        outputs,
        batch.labels,
        batch.keys,
        kind=settings.fisher,
        seed=settings.seed,
        draws=settings.draws,
    )


def _captured(context: RebuildContext, batch: Batch) -> tuple[LayerGradients, Labelled | None]:
    """The curvature's gradients; with those at the labels where rows are of the same blocks, and there is room."""
    with CaptureSession(context.classifier.model, context.layers) as session:
        outputs = session.forward(batch.inputs)
        [fisher] = _passes(context, session, outputs, batch)
        both = sum(least_bytes(gradient, 2) for gradient in fisher.values())
        if not (takes_all(context) and context.gradients.has_room(both)):
            return fisher, None
        scaled = scaled_output_gradient(context.classifier.loss, outputs, batch.labels)
        return fisher, Labelled(scaled, session.backward(scaled.unit))


def _for_later(context: RebuildContext, found: Captured) -> Captured | Labelled | None:
    """What passes after the covariances take of a block: nothing, where they need a forward all the same."""
    if context.settings.kind == "kfac":
        return found.labelled
    return None if found.labelled is None and takes_all(context) else found
