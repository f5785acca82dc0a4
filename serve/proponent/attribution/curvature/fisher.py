"""Gradients whose mean outer product is a Fisher or Gauss-Newton matrix.

Three kinds (Kunstner, Balles & Hennig 2019 compare them):

- ``true``: labels drawn from the model's own probabilities, an unbiased estimate of the Fisher information;
- ``empirical``: the training labels, i.e. the second moment of the training gradients;
- ``ggn``: the exact generalised Gauss-Newton matrix ``J^T H_out J``, one backward per class.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, Protocol, get_args

from torch import Tensor

from proponent.attribution.gradients.capture import CaptureSession
from proponent.attribution.gradients.layer_gradients import LayerGradients
from proponent.attribution.losses import Loss
from proponent.attribution.uniforms import example_uniforms
from proponent.errors import SpecError

FisherKind = Literal["true", "empirical", "ggn"]


def fisher_gradients(
    session: CaptureSession,
    loss: Loss,
    outputs: Tensor,
    labels: Tensor,
    ids: Tensor,
    *,
    kind: FisherKind = "true",
    seed: int = 0,
    draws: int = 1,
) -> Iterator[LayerGradients]:
    """Weighted gradients of one batch; the Fisher matrix of an example is the sum over passes of ``g g^T``.

    Args:
        session: Holds the forward that gave the outputs.
        loss: The training loss.
        outputs: ``[B, C]``.
        labels: ``[B]`` int64; read by ``empirical`` (and by ``ggn`` if the loss is not of the softmax family).
        ids: ``[B]`` int64; ``true`` draws an example's labels from its id, whatever batch it is in.
        kind: See the module.
        seed: Seed of the drawn labels.
        draws: Labels drawn per example.

    Yields:
        Gradients of each pass, weighted so that draws are averaged.

    Raises:
        SpecError: If the kind is unknown or there are no draws.
    """
    for output_gradient in _output_gradients(loss, outputs, labels, ids, kind, seed, draws):
        yield session.backward(output_gradient.reshape(outputs.shape))


def _output_gradients(
    loss: Loss, outputs: Tensor, labels: Tensor, ids: Tensor, kind: str, seed: int, draws: int
) -> Iterator[Tensor]:
    if kind == "empirical":
        yield loss.output_gradient(outputs, labels)
    elif kind == "ggn":
        yield from loss.hessian_root(outputs, labels).unbind(2)
    elif kind == "true":
        if draws < 1:
            raise SpecError(f"Drawn labels per example must be at least 1, got {draws}.", field="draws")
        for draw in range(draws):
            sampled = loss.sample_labels(outputs, example_uniforms(ids, seed, draw))
            yield loss.output_gradient(outputs, sampled) / draws**0.5
    else:
        known = ", ".join(get_args(FisherKind))
        raise SpecError(f"Unknown Fisher kind {kind!r}: expected one of {known}.", field="fisher")


class Accumulator(Protocol):
    """Sums something over the backward passes of each batch."""

    def update(self, passes: Iterable[LayerGradients], count: int) -> None:
        """Add all backward passes of one forward over ``count`` examples."""
