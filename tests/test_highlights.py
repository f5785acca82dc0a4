"""The weights of words are the derivative that they claim to be, on both sides, in whatever model looks words up."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad
from torch.nn import functional

import tiny_text
from proponent.attribution.embedding.base import ExactEmbedding
from proponent.attribution.gradients.layers import find_layers, flatten_parameters, unflatten_parameters
from proponent.attribution.inputs import NamedInputs, taking_inputs
from proponent.attribution.losses import get_loss
from proponent.attribution.precision import twice_differentiable
from proponent.datasets.examples import Examples
from proponent.datasets.tokens import FILE, Tokens, fit_tokenizer
from proponent.errors import HighlightsUnavailableError
from proponent.explainer import Explainer
from proponent.explainer.highlights import Asked, Highlighter, Side, highlighted, spans_of
from proponent.explainer.query import QueryEmbedder
from proponent.index.store import Store
from proponent.options import ExplainOptions, Measure, View
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.spec import load_spec
from proponent.text import Text
from proponent.v1 import explanation_pb2 as pb
from proponent.v1.worker_pb2 import WorkerReply, WorkerRequest
from proponent.worker.batch import Item, Worker

SIZE, ROWS = 13, 6


class Spelled:
    """Letters as tokens, a is 2; spaces have no place among them."""

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


def side(text: str, class_id: int, against: int | None = None) -> Side:
    return Side(text, Spelled()(text), class_id, against)


def phi(embedder: QueryEmbedder, found: Side, table: dict[str, Tensor]) -> Tensor:
    """By torch.func, with other word vectors."""
    model, layers = embedder.classifier.model, embedder.layers
    values = {name: tensor.detach() for name, tensor in model.named_parameters()}
    flat = flatten_parameters(values, layers)
    inputs = NamedInputs({name: tensor[None] for name, tensor in found.value.tensors.items()})  # type: ignore[union-attr]

    def loss(parameters: Tensor) -> Tensor:
        replaced = {**values, **table, **unflatten_parameters(parameters, layers)}
        outputs = functional_call(model, replaced, (inputs,))
        losses = [
            functional.cross_entropy(outputs, torch.tensor([class_id]))
            for class_id in (found.class_id, found.against)
            if class_id is not None
        ]
        return losses[0] if found.against is None else losses[0] - losses[1]

    with twice_differentiable():
        return grad(loss)(flat) @ embedder.embedding.basis  # type: ignore[attr-defined]


@pytest.mark.parametrize(("make", "frozen"), [(Recurrent, False), (distilbert, False), (distilbert, True)])
@pytest.mark.parametrize("against", [None, 0])
def test_a_weight_is_the_slope_of_the_score_towards_the_mean(
    make: Callable[[], nn.Module], frozen: bool, against: int | None
) -> None:
    found, embedder = highlighter(make, frozen)
    asked, examples = side("ab cf", 1, against), [side("gda", 0), side("f", 1)]
    [name] = [n for n, p in embedder.classifier.model.named_parameters() if p.shape[0] == SIZE]
    weight = embedder.classifier.model.get_parameter(name).detach()
    for example, (score, ours, theirs) in zip(examples, found.weigh(asked, examples), strict=True):
        held = [phi(embedder, each, {}) for each in (asked, example)]
        assert score == pytest.approx(float(held[0] @ held[1]), rel=1e-9)
        for one, other, tokens in ((asked, held[1], ours), (example, held[0], theirs)):
            assert [one.text[token.start : token.end] for token in tokens] == list(one.text.replace(" ", ""))
            for token in tokens:
                place = ord(one.text[token.start]) - ord("a") + 2
                step = torch.zeros_like(weight)
                step[place] = 1e-5 * (weight[place] - weight.mean(dim=0))
                up, down = (phi(embedder, one, {name: weight + sign * step}) @ other for sign in (1, -1))
                assert token.weight == pytest.approx(float(up - down) / 2e-5, rel=1e-5, abs=1e-9)


def test_a_transform_that_does_not_tell_its_tokens_is_refused() -> None:
    _, embedder = highlighter(Recurrent)
    embedder.classifier.transform = lambda text: text  # type: ignore[misc]
    with pytest.raises(HighlightsUnavailableError, match="spans"):
        Highlighter(embedder)


def test_tokenizers_tell_where_their_tokens_stand(tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    text = "Unforgettable, and 🎬 fine"
    fit_tokenizer(Examples([text] * 3, [0] * 3, ["a"], ["1", "2", "3"], ["", "", ""]), tmp_path)
    tokens = Tokens(tmp_path / FILE)
    fast = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / FILE), cls_token="[CLS]", sep_token="[SEP]")
    found = spans_of(tokens)(text)
    assert found == spans_of(fast)(text) and len(found) == len(tokens(text)["input_ids"])
    assert [text[slice(*span)] for span in found if span] == ["Unforgettable", ",", "and", "🎬", "fine"]
    assert found[0] is None and found[-1] is None


def test_a_model_that_looks_nothing_up_is_refused() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.top = nn.Linear(SIZE, 2)

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return self.top(functional.one_hot(input_ids, SIZE).double().sum(dim=1))

    with pytest.raises(HighlightsUnavailableError, match="look its tokens up"):
        next(highlighter(Counting)[0].weigh(side("ab", 0), [side("b", 1)]))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Explainer:
    root = tmp_path_factory.mktemp("served")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rebuild(load_spec(tiny_text.project(root)), Store(root / "store"), RebuildOptions(quiet=True))
    return Explainer.load(Store(root / "store").current("words"))


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
        assert ["a good film"[token.start : token.end] for token in own.asked] == ["a", "good", "film"]
        assert own.asked == whole.asked and not own.text and not own.example and not own.unavailable
        assert own.score == pytest.approx(scores[own.example_id], rel=5e-3)  # rows are kept in half precision
        assert [whole.text[token.start : token.end] for token in whole.example] == whole.text.split()
        assert any(abs(token.weight) > 1e-6 for token in whole.example)


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
        for token, mine, theirs in zip(both.asked, this.asked, that.asked, strict=True):
            assert token.weight == pytest.approx(mine.weight - theirs.weight, rel=1e-3, abs=1e-4)


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
