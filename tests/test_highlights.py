"""The weights of words are the derivative that they claim to be, on both sides, in whatever model looks words up."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad
from torch.nn import functional

from proponent.attribution.embedding.base import ExactEmbedding
from proponent.attribution.gradients.layers import find_layers, flatten_parameters, unflatten_parameters
from proponent.attribution.inputs import NamedInputs, taking_inputs
from proponent.attribution.losses import get_loss
from proponent.attribution.precision import twice_differentiable
from proponent.errors import HighlightsUnavailableError
from proponent.explainer.highlights import Highlighter, Side
from proponent.explainer.query import QueryEmbedder

SIZE, MASK, ROWS = 13, 1, 6


class Spelled:
    """Letters as tokens, a is 2; spaces have no place among them."""

    mask_id = MASK

    def spans(self, text: str) -> list[tuple[int, int] | None]:
        return [None, *((place, place + 1) for place, letter in enumerate(text) if letter != " ")]

    def __call__(self, text: str) -> NamedInputs:
        ids = torch.tensor([0, *(ord(letter) - ord("a") + 2 for letter in text if letter != " ")])
        return NamedInputs({"input_ids": ids, "attention_mask": torch.ones_like(ids)})


class Recurrent(nn.Module):
    """Looks words up, and is no transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(SIZE, 5)
        self.mix, self.top = nn.Linear(10, 5), nn.Linear(5, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        state = torch.zeros(len(input_ids), 5, dtype=self.mix.weight.dtype)
        for vector in self.words(input_ids).unbind(1):
            state = torch.tanh(self.mix(torch.cat([state, vector], dim=1)))
        return self.top(state)


def distilbert() -> nn.Module:
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    width = {"dim": 8, "n_layers": 2, "n_heads": 2, "hidden_dim": 12, "max_position_embeddings": 16}
    return DistilBertForSequenceClassification(DistilBertConfig(vocab_size=SIZE, **width))


def logits(outputs: Any) -> Tensor:
    return outputs if isinstance(outputs, Tensor) else outputs.logits


def highlighter(make: Callable[[], nn.Module], frozen: bool = False) -> tuple[Highlighter, QueryEmbedder]:
    torch.manual_seed(0)
    model = make().double().eval()
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, std=0.4)
        parameter.requires_grad_(not (frozen and "embeddings" in name))
    model.register_forward_hook(lambda _, args, outputs: logits(outputs))
    layers = find_layers(model)
    size = sum(layer.numel for layer in layers.values())
    embedding = ExactEmbedding(layers, torch.randn(size, ROWS, dtype=torch.float64) / size**0.5)
    spec = {"model": taking_inputs(model), "device": torch.device("cpu"), "loss": get_loss("cross_entropy")}
    embedder = QueryEmbedder(SimpleNamespace(**spec, transform=Spelled()), embedding, layers)  # type: ignore[arg-type]
    return Highlighter(embedder), embedder


def side(text: str, class_id: int) -> Side:
    return Side(text, Spelled()(text), class_id)


def phi(embedder: QueryEmbedder, found: Side, table: dict[str, Tensor]) -> Tensor:
    """By torch.func, with other word vectors."""
    model, layers = embedder.classifier.model, embedder.layers
    values = {name: tensor.detach() for name, tensor in model.named_parameters()}
    flat = flatten_parameters(values, layers)
    inputs = NamedInputs({name: tensor[None] for name, tensor in found.value.tensors.items()})  # type: ignore[union-attr]

    def loss(parameters: Tensor) -> Tensor:
        replaced = {**values, **table, **unflatten_parameters(parameters, layers)}
        outputs = functional_call(model, replaced, (inputs,))
        return functional.cross_entropy(outputs, torch.tensor([found.class_id]))

    with twice_differentiable():
        return grad(loss)(flat) @ embedder.embedding.basis  # type: ignore[attr-defined]


@pytest.mark.parametrize(("make", "frozen"), [(Recurrent, False), (distilbert, False), (distilbert, True)])
def test_a_weight_is_the_slope_of_the_score_towards_the_mask(make: Callable[[], nn.Module], frozen: bool) -> None:
    found, embedder = highlighter(make, frozen)
    asked, example = side("ab cf", 1), side("gda", 0)
    score, ours, theirs = found.weigh(asked, example)
    [name] = [n for n, p in embedder.classifier.model.named_parameters() if p.shape[0] == SIZE]
    weight = embedder.classifier.model.get_parameter(name).detach()
    held = [phi(embedder, each, {}) for each in (asked, example)]
    assert score == pytest.approx(float(held[0] @ held[1]), rel=1e-9)
    for one, other, tokens in ((asked, held[1], ours), (example, held[0], theirs)):
        assert [one.text[token.start : token.end] for token in tokens] == list(one.text.replace(" ", ""))
        for token in tokens:
            place = ord(one.text[token.start]) - ord("a") + 2
            step = torch.zeros_like(weight)
            step[place] = 1e-5 * (weight[place] - weight[MASK])
            up, down = (phi(embedder, one, {name: weight + sign * step}) @ other for sign in (1, -1))
            assert token.weight == pytest.approx(float(up - down) / 2e-5, rel=1e-5, abs=1e-9)


def test_a_transform_that_does_not_tell_its_tokens_is_refused() -> None:
    _, embedder = highlighter(Recurrent)
    embedder.classifier.transform = lambda text: text  # type: ignore[misc]
    with pytest.raises(HighlightsUnavailableError, match="spans"):
        Highlighter(embedder)


def test_a_model_that_looks_nothing_up_is_refused() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.top = nn.Linear(SIZE, 2)

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return self.top(functional.one_hot(input_ids, SIZE).double().sum(dim=1))

    with pytest.raises(HighlightsUnavailableError, match="look its tokens up"):
        highlighter(Counting)[0].weigh(side("ab", 0), side("b", 1))
