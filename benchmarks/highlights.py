"""Highlights: what cheaper derivatives would say of the words that the service leaves out one by one.

For some held-out sentences and four training examples of each (the first proponent, the first opponent, the first by
theta-RelatIF, one at random) every word piece is left out, and replaced by the mean vector of the vocabulary; phi is
computed anew each time. Beside it stand derivatives of the score by the pieces' vectors. Agreement is Spearman's rank
correlation over the pieces of one text, the mean over all pairs; intervals are over sentences (t, 95 %). Times are
processor times of one pair, both sides, of a text that is asked about for the first time.

Run: ``python benchmarks/highlights.py --work DIRECTORY [--sentences 60]``. Writes JSON.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from commands import RESULTS, rebuilt, write
from scipy import stats
from torch import Tensor, nn

from proponent.attribution.gradients.capture import CaptureSession
from proponent.attribution.inputs import NamedInputs
from proponent.attribution.precision import twice_differentiable
from proponent.classifier import call_factory
from proponent.explainer import Explainer
from proponent.explainer.highlights import Side, weigh
from proponent.explainer.query import QueryEmbedder
from proponent.options import ExplainOptions, Measure
from proponent.raw_inputs import model_input
from proponent.results import Explanation
from proponent.single_precision import single_precision

PRESETS = ("sst2", "sentences")
IDS, MASK = "input_ids", "attention_mask"
TRUTHS = ("left out", "replaced")
TIMED = 40
"""Pairs."""


class Differentiable(NamedTuple):
    """Phi of one text [K] in the graph of the vectors [1, T, d] that its tokens are looked up as."""

    phi: Tensor
    vectors: Tensor


class Pair(NamedTuple):
    """A sentence and a training example; ``sentence`` numbers the former."""

    sentence: int
    asked: Side
    example: Side


class Subject:
    """A served classifier of texts, taken apart."""

    def __init__(self, explainer: Explainer) -> None:
        self.explainer = explainer
        self.embedder: QueryEmbedder = explainer._embedder
        self.model, self.transform = explainer.classifier.model, explainer.classifier.transform
        self.table = max(
            (m for m in self.model.modules() if isinstance(m, nn.Embedding)), key=lambda m: m.num_embeddings
        )
        self.mean = self.table.weight.detach().mean(dim=0)

    def side(self, text: str, class_id: int) -> Side:
        """A text of a class, as the model takes it."""
        return Side(text, model_input(self.transform, text), class_id)

    def data(self, key: str) -> Any:
        """The data set that the spec names so."""
        spec = self.explainer.classifier.spec
        return call_factory(spec, getattr(spec, key), key)

    def pieces(self, side: Side) -> list[int]:
        """Places of the tokens that stand for characters: all but the first and the last."""
        return list(range(1, int(side.value.tensors[MASK].sum()) - 1))

    def differentiable(self, side: Side) -> Differentiable:
        """Phi that can be differentiated by the vectors of the text's tokens."""
        looked_up: list[Tensor] = []
        hook = self.table.register_forward_hook(lambda module, args, output: looked_up.append(output))
        loss, tensors = self.embedder.classifier.loss, side.value.tensors
        inputs = NamedInputs({name: tensor[None] for name, tensor in tensors.items()})
        try:
            with CaptureSession(self.model, self.embedder.layers, twice=True) as session:
                outputs = session.forward(inputs)
                slope = loss.output_gradient(outputs, torch.tensor([side.class_id]))
                phi = self.embedder.embedding.embed(session.backward(slope))[0]
        finally:
            hook.remove()
        return Differentiable(phi, looked_up[0])

    def phi(self, ids: Tensor, mask: Tensor, class_id: int) -> Tensor:
        """Of a batch [B, T]; [B, K] float64."""
        loss = self.embedder.classifier.loss
        with single_precision(), CaptureSession(self.model, self.embedder.layers) as session:
            outputs = session.forward(NamedInputs({IDS: ids, MASK: mask}))
            slope = loss.output_gradient(outputs, torch.full((len(ids),), class_id))
            return self.embedder.embedding.embed(session.backward(slope)).double()

    def falls(self, side: Side, held: Tensor, truth: str) -> list[float]:
        """What the product with ``held`` loses by each piece's replacement or absence, computed anew."""
        tensors, places = side.value.tensors, self.pieces(side)
        ids, mask = (tensors[name].expand(len(places), -1) for name in (IDS, MASK))
        whole = self.phi(tensors[IDS][None], tensors[MASK][None], side.class_id) @ held
        if truth == "replaced":
            with replaced(self.table, places, self.mean):
                changed = self.phi(ids, mask, side.class_id) @ held
        else:
            kept = [[other for other in range(ids.shape[1]) if other != place] for place in places]
            rows = torch.arange(len(places))[:, None]
            changed = self.phi(*(padded(each[rows, kept]) for each in (ids, mask)), side.class_id) @ held
        return [float(fall) for fall in whole - changed]

    def pairs(self, count: int, seed: int = 0) -> Iterator[Pair]:
        """Of so many held-out sentences, drawn."""
        held_out = self.data("held_out")
        random = np.random.RandomState(seed)
        for number in random.choice(len(held_out), count, replace=False):
            text = held_out[int(number)][0]
            options = ExplainOptions(measures=(Measure.INFLUENCE, Measure.THETA_RELATIF), top_k=1)
            [found] = self.explainer.explain([model_input(self.transform, text)], [options])
            assert isinstance(found, Explanation)
            influence, relative = found.results
            listed = [*influence.proponents, *influence.opponents, *relative.proponents]
            rows = self.explainer.catalog.rows_of([each.example_id for each in listed]).values()
            chosen = [*rows, random.randint(self.explainer.manifest.train_size)]
            entries = self.explainer.catalog.by_rows(chosen, contents=True)
            for entry in (entries[row] for row in chosen):
                asked = self.side(text, found.prediction.class_id)
                yield Pair(int(number), asked, self.side(entry.text, entry.class_id))


@contextmanager
def replaced(table: nn.Embedding, places: Sequence[int], vector: Tensor) -> Iterator[None]:
    """Within it the b-th text of a batch has ``vector`` at the b-th place."""

    def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        changed = output.clone()
        changed[torch.arange(len(places)), torch.tensor(places)] = vector
        return changed

    handle = table.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def padded(rows: Tensor) -> Tensor:
    """One column of zeros behind, so that the length stays."""
    return nn.functional.pad(rows, (0, 1))


def derivatives(subject: Subject, side: Differentiable, held: Tensor, spaced: Tensor) -> dict[str, Tensor]:
    """Weights of all tokens [T] by name; ``spaced`` [d] is the mean vector of the training texts."""
    [gradient] = torch.autograd.grad(side.phi @ held, side.vectors, retain_graph=True)
    vectors, slope = side.vectors.detach()[0], gradient[0]
    return {
        "gradient · (vector - mean vector)": (slope * (vectors - subject.mean)).sum(dim=1),
        "gradient · (vector - mean vector of the training texts)": (slope * (vectors - spaced)).sum(dim=1),
        "gradient · vector": (slope * vectors).sum(dim=1),
        "size of the gradient": slope.norm(dim=1),
    }


def seconds(subject: Subject, sentences: int) -> dict[str, float]:
    """Processor time of one pair."""
    pairs = list(islice(subject.pairs(sentences), TIMED))
    begin = time.process_time()
    for pair in pairs:
        next(weigh(subject.embedder, pair.asked, [pair.example]))
    between = time.process_time()
    for pair in pairs:
        with single_precision(), twice_differentiable():
            one, other = (subject.differentiable(each) for each in (pair.asked, pair.example))
            for mine, held in ((one, other), (other, one)):
                torch.autograd.grad(mine.phi @ held.phi.detach(), mine.vectors, retain_graph=True)
    end = time.process_time()
    return {
        "left_out_s": round((between - begin) / len(pairs), 3),
        "derivative_s": round((end - between) / len(pairs), 3),
    }


def mean_of_texts(subject: Subject) -> Tensor:
    """Mean vector of the pieces of the training texts, each as often as it occurs."""
    data, counts = subject.data("dataset"), torch.zeros(subject.table.num_embeddings)
    for number in range(len(data)):
        side = subject.side(data[number][0], 0)
        counts += torch.bincount(side.value.tensors[IDS][subject.pieces(side)], minlength=len(counts))
    return (counts / counts.sum()) @ subject.table.weight.detach()


Rows = dict[tuple[str, str, str], list[tuple[int, float, float, float]]]


def measured(subject: Subject, sentences: int) -> dict[str, Any]:
    """Figures by truth, side and derivative."""
    spaced, rows = mean_of_texts(subject), Rows()
    for pair in subject.pairs(sentences):
        with single_precision(), twice_differentiable():
            grown = [subject.differentiable(each) for each in (pair.asked, pair.example)]
            for name, side, mine, other in (
                ("input", pair.asked, *grown),
                ("example", pair.example, *reversed(grown)),
            ):
                found = derivatives(subject, mine, other.phi.detach(), spaced)
                add(rows, subject, pair.sentence, name, side, found, other.phi.detach().double())
    return {
        "pairs": len(next(iter(rows.values()))),
        "seconds_of_a_pair": seconds(subject, sentences),
        "agreement": [
            {"truth": truth, "side": side, "weight": weight, **summary(each)}
            for (truth, side, weight), each in rows.items()
        ],
    }


def add(
    rows: Rows, subject: Subject, sentence: int, name: str, side: Side, found: dict[str, Tensor], held: Tensor
) -> None:
    """The agreement of one side of a pair, for each truth and derivative."""
    places = subject.pieces(side)
    for truth in TRUTHS:
        falls = subject.falls(side, held, truth)
        for weight, tokens in found.items():
            seen = [abs(fall) for fall in falls] if weight == "size of the gradient" else falls
            rows.setdefault((truth, name, weight), []).append((sentence, *agreement(tokens[places].tolist(), seen)))


def agreement(weights: Sequence[float], falls: Sequence[float]) -> tuple[float, float, float]:
    """Rank correlation, share of equal signs, and whether the same piece is the largest."""
    same = float(np.mean(np.sign(weights) == np.sign(falls)))
    first = float(np.argmax(np.abs(weights)) == np.argmax(np.abs(falls)))
    return float(stats.spearmanr(weights, falls).statistic), same, first


def summary(rows: Sequence[tuple[int, float, float, float]]) -> dict[str, Any]:
    """Means over pairs; the interval is over sentences."""
    table = np.array([row for row in rows if np.isfinite(row[1])])
    means = np.array([table[table[:, 0] == number, 1].mean() for number in np.unique(table[:, 0])])
    low, high = stats.t.interval(0.95, len(means) - 1, means.mean(), stats.sem(means))
    return {
        "mean": round(float(means.mean()), 3),
        "interval_95": [round(float(low), 3), round(float(high), 3)],
        "same_sign": round(float(table[:, 2].mean()), 3),
        "same_first": round(float(table[:, 3].mean()), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="directory that is kept between runs")
    parser.add_argument("--sentences", type=int, default=60, help="held-out sentences of each model")
    parser.add_argument("--out", type=Path, default=RESULTS / "highlights.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    subjects = {preset: Subject(Explainer.load(rebuilt(preset, options.work))) for preset in PRESETS}
    found = {preset: measured(subject, options.sentences) for preset, subject in subjects.items()}
    write(options.out, {"sentences": options.sentences, "models": found})


if __name__ == "__main__":
    main()
