r"""Which words carry the scores of pairs of texts: a gradient of each score, on the input's side and the example's.

The score of an input x and a training example z is ``phi(x) . phi(z)``, phi being linear in the gradient of the loss.
It depends on the vectors that the words of x are looked up as, and to first order a word whose vector becomes the
mean of the vocabulary's, which says nothing in particular, takes its weight from the score,

.. math:: (v_{word} - \bar v) \cdot \partial (\phi(x) \cdot \phi(z)) / \partial v_{word},

a second derivative of the loss. The words of z are weighed in the same way with phi(x) held. How far weights agree
with words that are really replaced, or left out, is measured: see docs/scores.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from proponent.attribution.gradients.capture import CaptureSession
from proponent.attribution.inputs import Example, tensors_of
from proponent.attribution.precision import single_precision, twice_differentiable
from proponent.bounds.cancellation import checkpoint
from proponent.errors import HighlightsUnavailableError, ProponentError
from proponent.explainer.query import QueryEmbedder
from proponent.index.bundle import Manifest
from proponent.index.catalog import LONGEST_TEXT, CatalogEntry
from proponent.options import ExplainOptions, View
from proponent.raw_inputs import model_input
from proponent.results import Highlight, Highlights, WeighedToken

Spans = Callable[[str], Sequence[tuple[int, int] | None]]


class Side(NamedTuple):
    """One side of a pair: a text, the tensors that the model takes of it, and the class whose loss is meant.

    In a contrast it is that of ``class_id`` less that of ``against``.
    """

    text: str
    value: Example
    class_id: int
    against: int | None = None


class Asked(NamedTuple):
    """What is asked about: a text, the tensors that the model takes of it, and what to explain and to show."""

    text: str
    value: Example
    options: ExplainOptions


class Weighed(NamedTuple):
    """The score of a pair, and the weights of the tokens of the text asked about and of the example's."""

    score: float
    asked: list[WeighedToken]
    example: list[WeighedToken]


class Differentiable(NamedTuple):
    """Phi of one text [K] in the graph of the vectors [1, T, d] that its tokens are looked up as, and their table."""

    phi: Tensor
    vectors: Tensor
    table: nn.Embedding


def highlighted(
    embedder: QueryEmbedder, manifest: Manifest, entries: Sequence[CatalogEntry], asked: Asked
) -> Highlights:
    """The words of pairs of one text and each of some training texts.

    Raises:
        HighlightsUnavailableError: The transform, the model or the bundle does not allow it.
        InvalidInputError: An unknown class, or a contrast of a class with itself.
    """
    if manifest.teachers:
        message = "scores are distilled from other trainings: no gradient of this model's tells them"
        raise HighlightsUnavailableError(message)
    highlighter, transform = Highlighter(embedder), embedder.classifier.transform
    [prediction] = embedder.predict([asked.value])
    choice = embedder.choice(prediction, asked.options.target)
    if isinstance(prediction, ProponentError):
        raise prediction
    if isinstance(choice, ProponentError):
        raise choice
    whole = [entry for entry in entries if not _lacking(entry)]
    examples = (Side(entry.text, model_input(transform, entry.text), entry.class_id) for entry in whole)
    found = zip(whole, highlighter.weigh(Side(asked.text, asked.value, *choice), examples), strict=True)
    shows = asked.options.view >= View.THUMBNAIL
    weighed = {entry.example_id: _highlight(entry, each, shows=shows) for entry, each in found}
    return Highlights(
        prediction=prediction,
        highlights=[weighed.get(e.example_id) or Highlight(e.example_id, unavailable=_lacking(e)) for e in entries],
        target_class_id=choice[0],
        against_class_id=choice[1],
        bundle_digest=manifest.digest,
    )


def _lacking(entry: CatalogEntry) -> str:
    """Why a training example cannot be weighed, or nothing."""
    if not entry.text:
        return "the bundle keeps no text of this training example"
    return "the bundle keeps only the beginning of this text" if len(entry.text) > LONGEST_TEXT else ""


def _highlight(entry: CatalogEntry, found: Weighed, *, shows: bool) -> Highlight:
    example, text = (found.example, entry.text) if shows else ((), "")
    return Highlight(entry.example_id, found.score, found.asked, example, text)


class Highlighter:
    """Weighs the words of texts. Not thread-safe: hooks on the model are per call.

    Raises:
        HighlightsUnavailableError: The transform does not tell where its tokens stand.
    """

    def __init__(self, embedder: QueryEmbedder) -> None:
        self._embedder = embedder
        self._model = embedder.classifier.model
        self._spans = spans_of(embedder.classifier.transform)

    def weigh(self, asked: Side, examples: Iterable[Side]) -> Iterator[Weighed]:
        """Each example's score and weights, one after the other."""
        with single_precision(), twice_differentiable():
            ours = self.differentiable(asked)
            for example in examples:
                checkpoint()
                theirs = self.differentiable(example)
                yield Weighed(
                    float(ours.phi.detach().double() @ theirs.phi.detach().double()),
                    self._tokens(asked, _weights(ours, theirs.phi)),
                    self._tokens(example, _weights(theirs, ours.phi)),
                )

    def differentiable(self, side: Side) -> Differentiable:
        """Phi of one text; raises HighlightsUnavailableError where its tokens are looked up in no table."""
        embedder, loss = self._embedder, self._embedder.classifier.loss
        with (
            CaptureSession(self._model, embedder.layers, twice=True) as session,
            _looking_up(self._model, side.value) as found,
        ):
            outputs = session.forward(embedder.stack([side.value]))
            slope = loss.output_gradient(outputs, _one(side.class_id, outputs))
            if side.against is not None:
                slope = slope - loss.output_gradient(outputs, _one(side.against, outputs))
            phi: Tensor = embedder.embedding.embed(session.backward(slope))[0]
        return Differentiable(phi, *found())

    def _tokens(self, side: Side, weights: Sequence[float]) -> list[WeighedToken]:
        spans = self._spans(side.text)
        return [WeighedToken(*span, weight) for span, weight in zip(spans, weights, strict=False) if span]


def spans_of(transform: Any) -> Spans:
    """Tells the characters of each token of a text, from start to end, or None for a token that stands for none.

    Raises:
        HighlightsUnavailableError: The transform has no ``spans``, and is no fast tokenizer of transformers.
    """
    if callable(own := getattr(transform, "spans", None)):
        return own  # type: ignore[no-any-return]
    if getattr(transform, "is_fast", False):
        return partial(_offsets, transform)
    raise HighlightsUnavailableError("the model's transform does not tell where its tokens stand (spans)")


def _offsets(tokenizer: Any, text: str) -> list[tuple[int, int] | None]:
    told = tokenizer(text, return_offsets_mapping=True, return_special_tokens_mask=True)
    places = zip(told["offset_mapping"], told["special_tokens_mask"], strict=True)
    return [None if is_special else span for span, is_special in places]


def _one(class_id: int, outputs: Tensor) -> Tensor:
    return torch.tensor([class_id], device=outputs.device)


def _weights(side: Differentiable, held: Tensor) -> list[float]:
    """What each token takes from the product with the other side's phi [K], which is held; T numbers."""
    [gradient] = torch.autograd.grad(side.phi @ held.detach(), side.vectors, retain_graph=True)
    apart = side.vectors.detach() - side.table.weight.detach().mean(dim=0)
    return [float(weight) for weight in (gradient * apart)[0].sum(dim=1).double().tolist()]


@contextmanager
def _looking_up(model: nn.Module, value: Example) -> Iterator[Callable[[], tuple[Tensor, nn.Embedding]]]:
    """Within it a forward keeps the vectors [1, T, d] that tokens are looked up as; gives them and their table."""
    tokens = [tensor for tensor in tensors_of(value).values() if not tensor.is_floating_point()]
    found: list[tuple[Tensor, nn.Embedding]] = []

    def look(module: nn.Embedding, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if not any(args[0].numel() == each.numel() and torch.equal(args[0].cpu().flatten(), each) for each in tokens):
            return output
        vectors = output if output.requires_grad else output.detach().requires_grad_()
        found.append((vectors, module))
        return vectors

    def largest() -> tuple[Tensor, nn.Embedding]:
        if not found:
            raise HighlightsUnavailableError("the model does not look its tokens up in an nn.Embedding")
        return max(found, key=lambda each: each[1].num_embeddings)

    with ExitStack() as hooks:
        for module in model.modules():
            if isinstance(module, nn.Embedding):
                hooks.callback(module.register_forward_hook(look).remove)
        yield largest
