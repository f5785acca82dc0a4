"""Losses as functions of the model's outputs: values, gradients, Hessians and label sampling.

Influence functions need the gradient of every example's loss, also of examples that the model fits so well
that their gradient is tiny. So each gradient here is *relatively* accurate: no entry is a difference of two
nearly equal numbers such as ``p_y - 1``. Nothing depends on the values of the tensors (no ``.item()``, no
branches on data), so everything runs on any device, ``meta`` included.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from proponent.attribution.losses.callable_loss import CallableLoss
from proponent.attribution.losses.hinge import Hinge
from proponent.attribution.losses.likelihoods import BinaryCrossEntropy, CrossEntropy, NegativeLogLikelihood
from proponent.attribution.losses.loss import Loss
from proponent.errors import SpecError

__all__ = [
    "LOSSES",
    "BinaryCrossEntropy",
    "CallableLoss",
    "CrossEntropy",
    "Hinge",
    "Loss",
    "NegativeLogLikelihood",
    "get_loss",
]

LOSSES: dict[str, Loss] = {
    loss.name: loss for loss in (CrossEntropy(), NegativeLogLikelihood(), BinaryCrossEntropy(), Hinge())
}


def get_loss(spec: str | Callable[[Tensor, Tensor], Tensor]) -> Loss:
    """The loss of that name, or the user's callable wrapped.

    Raises:
        SpecError: If no loss has that name; the message lists the known ones.
    """
    if callable(spec):
        return CallableLoss(spec)
    if spec not in LOSSES:
        raise SpecError(f"Unknown loss {spec!r}: expected one of {', '.join(LOSSES)}.", field="loss")
    return LOSSES[spec]
