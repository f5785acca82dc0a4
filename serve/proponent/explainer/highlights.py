r"""Which words carry the score of a pair of texts: a gradient of the score, on the input's side and the example's.

The score of an input x and a training example z is ``phi(x) . phi(z)``, phi being linear in the gradient of the loss.
It depends on the vectors that the words of x are looked up as, and to first order a word that is replaced by one that
says nothing (the tokenizer's mask) takes its weight from the score,

.. math:: (v_{word} - v_{mask}) \cdot \partial (\phi(x) \cdot \phi(z)) / \partial v_{word},

a second derivative of the loss. The words of z are weighed in the same way with phi(x) held. How far weights agree
with words that are really replaced is measured, see docs/decisions.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from proponent.attribution.gradients.capture import CaptureSession
from proponent.attribution.inputs import Example, tensors_of
from proponent.attribution.precision import single_precision, twice_differentiable
from proponent.errors import HighlightsUnavailableError, InvalidInputError, ProponentError
from proponent.explainer.query import QueryEmbedder
from proponent.index.bundle import Manifest
from proponent.index.catalog import LONGEST_TEXT, CatalogEntry
from proponent.options import Target
from proponent.raw_inputs import model_input
from proponent.results import Highlights, WeighedToken


class Side(NamedTuple):
    """One side of a pair: a text, the tensors that the model takes of it, and the class whose loss is meant."""

    text: str
    value: Example
    class_id: int


class Asked(NamedTuple):
    """What is asked about: a text, the tensors that the model takes of it, and the class to explain."""

    text: str
    value: Example
    target: Target


def highlighted(embedder: QueryEmbedder, manifest: Manifest, entry: CatalogEntry, asked: Asked) -> Highlights:
    """The words of a pair.

    Raises:
        HighlightsUnavailableError: The transform, the bundle or the example does not allow it.
        InvalidInputError: An unknown class, or a contrast.
    """
    if manifest.teachers:
        raise HighlightsUnavailableError(
            "scores are distilled from other trainings: no gradient of this model's tells them"
        )
    if not entry.text or len(entry.text) > LONGEST_TEXT:
        kept = "only the beginning of the text" if entry.text else "no text"
        raise HighlightsUnavailableError(f"the bundle keeps {kept} of training example {entry.example_id!r}")
    highlighter, transform = Highlighter(embedder), embedder.classifier.transform
    [prediction] = embedder.predict([asked.value])
    choice = embedder.choice(prediction, asked.target)
    if isinstance(choice, ProponentError):
        raise choice
    if choice[1] is not None:
        raise InvalidInputError("words are weighed for one class, not for a contrast", field="target.contrast")
    example = Side(entry.text, model_input(transform, entry.text), entry.class_id)
    found = highlighter.weigh(Side(asked.text, asked.value, choice[0]), example)
    return Highlights(*found, text=entry.text, bundle_digest=manifest.digest)


class Highlighter:
    """Weighs the words of texts. Not thread-safe: hooks on the model are per call.

    Raises:
        HighlightsUnavailableError: The transform does not tell where its tokens stand (``spans``) and which id says
            nothing (``mask_id``).
    """

    def __init__(self, embedder: QueryEmbedder) -> None:
        self._embedder = embedder
        self._model = embedder.classifier.model
        transform: Any = embedder.classifier.transform
        if not callable(getattr(transform, "spans", None)) or not isinstance(
            getattr(transform, "mask_id", None), int
        ):
            raise HighlightsUnavailableError(
                "the transform does not tell where its tokens stand (spans) and which id says nothing (mask_id)"
            )
        self._spans: Callable[[str], Sequence[tuple[int, int] | None]] = transform.spans
        self._mask: int = transform.mask_id

    def weigh(self, asked: Side, example: Side) -> tuple[float, list[WeighedToken], list[WeighedToken]]:
        """The score of a pair, and the weights of the tokens of the text asked about and of the example's."""
        with single_precision(), twice_differentiable():
            held = [self._phi(each).detach() for each in (asked, example)]
            score = float(held[0].double() @ held[1].double())
            return score, self._weighed(asked, held[1]), self._weighed(example, held[0])

    def _weighed(self, side: Side, held: Tensor) -> list[WeighedToken]:
        with _looking_up(self._model, side.value) as found:
            score = self._phi(side) @ held
            table, vectors = found()
            [gradient] = torch.autograd.grad(score, vectors)
        apart = vectors.detach() - table.weight.detach()[self._mask]
        weights = (gradient * apart)[0].sum(dim=1).double().tolist()
        spans = self._spans(side.text)
        return [WeighedToken(*span, weight) for span, weight in zip(spans, weights, strict=False) if span]

    def _phi(self, side: Side) -> Tensor:
        """Phi of one text, in the graph of the model's forward; [K]."""
        embedder, loss = self._embedder, self._embedder.classifier.loss
        with CaptureSession(self._model, embedder.layers, twice=True) as session:
            outputs = session.forward(embedder.stack([side.value]))
            slope = loss.output_gradient(outputs, torch.tensor([side.class_id], device=outputs.device))
            phi: Tensor = embedder.embedding.embed(session.backward(slope))[0]
        return phi


@contextmanager
def _looking_up(model: nn.Module, value: Example) -> Iterator[Callable[[], tuple[nn.Embedding, Tensor]]]:
    """Within it a forward keeps the vectors [1, T, d] that tokens are looked up as; gives them and their table."""
    tokens = [tensor for tensor in tensors_of(value).values() if not tensor.is_floating_point()]
    found: list[tuple[nn.Embedding, Tensor]] = []

    def look(module: nn.Embedding, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if not any(args[0].numel() == each.numel() and torch.equal(args[0].cpu().flatten(), each) for each in tokens):
            return output
        vectors = output if output.requires_grad else output.detach().requires_grad_()
        found.append((module, vectors))
        return vectors

    def largest() -> tuple[nn.Embedding, Tensor]:
        if not found:
            raise HighlightsUnavailableError("the model does not look its tokens up in an nn.Embedding")
        return max(found, key=lambda each: each[0].num_embeddings)

    with ExitStack() as hooks:
        for module in model.modules():
            if isinstance(module, nn.Embedding):
                hooks.callback(module.register_forward_hook(look).remove)
        yield largest
