"""DIVINE: what a diverse selection costs, and what gamma = 1 keeps of plain top-10's influence and gains by its term.

Times are processor times of one selection from 1,000 candidates with K = 768, for each redundancy term, over the pool
and over a whole data set. What is kept and gained is the mean over both ends of some held-out inputs, for gamma as it
is and as the paper writes it.

Run: ``python benchmarks/divine.py --work DIRECTORY [--whole 20000]``. Writes JSON.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from commands import RESULTS, proponent, trained, write
from torch import Tensor
from torch.nn.functional import normalize

from proponent.attribution.candidate_pool import Domain, Pool, median_bandwidth
from proponent.attribution.divine import Selection
from proponent.explainer import Explainer
from proponent.explainer.diversity import TERMS
from proponent.index.store import Store
from proponent.options import Diversity, ExplainOptions, Redundancy
from proponent.rebuild.training_set import TrainingSet
from proponent.results import DiversityOutcome

CANDIDATES, SIZE, GAMMA, LOSS = 1000, 768, 1.0, 0.1
TOP, REPEATS = 10, 15
KEPT = {"digits": 6, "mnist-cnn": 4}
"""Held-out inputs by model."""


def milliseconds(run: Callable[[], object], repeats: int) -> dict[str, float]:
    run()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        times.append(1e3 * (time.process_time() - start))
    return {"median_ms": round(statistics.median(times), 2), "best_ms": round(min(times), 2)}


def unit_rows(count: int, seed: int) -> Tensor:
    """Forty loose clusters, the same for every seed."""
    centres = torch.randn(40, SIZE, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(count, SIZE, generator=torch.Generator().manual_seed(seed))
    return normalize(centres[torch.arange(count) % 40] + 0.7 * noise, dim=1)


def times(whole_rows: int) -> dict[str, dict[str, float]]:
    """Milliseconds of each term's selections; ``whole_rows`` 0 for the pool alone."""
    rows = unit_rows(CANDIDATES, 1)
    generator = torch.Generator().manual_seed(0)
    influences = torch.rand(CANDIDATES, generator=generator, dtype=torch.float64).sort(descending=True).values
    whole = unit_rows(whole_rows, 2).half() if whole_rows else None

    def domain() -> Domain | None:
        return None if whole is None else Domain(len(whole), lambda: (part.float() for part in whole.split(2048)))

    def selection(term: Redundancy) -> Selection:
        return Selection(Pool(influences, rows, median_bandwidth(rows), domain()), TERMS[term], TOP)

    found, repeats = {}, REPEATS if whole is None else 3
    for term in Redundancy:
        found[term.value] = milliseconds(lambda term=term: selection(term).at(GAMMA), repeats)
        found[f"{term.value}, loss <= {LOSS}"] = milliseconds(lambda term=term: selection(term).within(LOSS), repeats)
    return found


def outcomes(explainer: Explainer, inputs: list[Tensor], diversity: Diversity) -> Iterator[DiversityOutcome]:
    """Of every end of every input's first measure."""
    options = [ExplainOptions(top_k=TOP, diversity=diversity)] * len(inputs)
    for answer in explainer.explain(inputs, options):
        result = answer.results[0]
        yield from (each for each in (result.proponents_diversity, result.opponents_diversity) if each is not None)


def kept(explainer: Explainer, inputs: list[Tensor]) -> list[dict[str, Any]]:
    """By term and domain, scaled and as the paper writes it."""
    rows = []
    for term in Redundancy:
        for whole in (False, True):
            if whole and term is Redundancy.SUM:
                continue
            row: dict[str, Any] = {"term": term.value, "whole_dataset": whole}
            for name, unscaled in (("scaled", False), ("as_written", True)):
                diversity = Diversity(term, gamma=GAMMA, whole_dataset=whole, unscaled=unscaled)
                found = list(outcomes(explainer, inputs, diversity))
                row[name] = {
                    "kept": statistics.mean(each.influence_kept for each in found),
                    "gained": statistics.mean(each.redundancy_gained for each in found),
                }
            rows.append(row)
    return rows


def opened(preset: str, work: Path) -> tuple[Explainer, list[Tensor]]:
    """A model's index and its first held-out inputs."""
    directory = trained(preset, work)
    bundle = proponent("rebuild", directory, "--store", directory / "store", "--quiet", "--json").printed["model"]
    explainer = Explainer.load(Store(directory / "store").current(bundle))
    held_out = TrainingSet.open(explainer.classifier, explainer.classifier.spec.held_out, "held_out")
    return explainer, list(held_out.batch(range(KEPT[preset])).inputs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="directory that is kept between runs")
    parser.add_argument("--whole", type=int, default=20_000, help="rows of the whole data set that is timed")
    parser.add_argument("--out", type=Path, default=RESULTS / "divine.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = {
        "candidates": CANDIDATES,
        "K": SIZE,
        "k": TOP,
        "whole": options.whole,
        "pool_ms": times(0),
        "whole_ms": times(options.whole),
        "kept": {preset: kept(*opened(preset, options.work)) for preset in KEPT},
    }
    write(options.out, found)
    print(options.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
