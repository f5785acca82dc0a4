"""Exact curvature on all of MNIST: the rebuild, the opening of its bundle while cold, and removals from it.

The rebuild's time and peak memory are those of the command. Then the bundle's pages are dropped from the cache and it
is opened (``cold_open.py``). Removals: the second-order estimate for the 50 strongest proponents, and a search for a
flip set, for each of some held-out inputs.

Run: ``python benchmarks/exact_rebuild.py --work DIRECTORY [--threads 2]``. About 15 minutes and 4 GiB. Linux only.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import cold_open
import torch
from commands import RESULTS, proponent, trained, write
from timing import taken
from torch import Tensor

from proponent.explainer import Explainer
from proponent.index.store import Store
from proponent.options import Estimator, ExplainOptions, Target
from proponent.rebuild.training_set import TrainingSet

INPUTS, REMOVED = 5, 50


def removals(bundle: Path) -> dict[str, Any]:
    """Seconds of estimates and searches, by input."""
    explainer = Explainer.load(bundle)
    held_out = TrainingSet.open(explainer.classifier, explainer.classifier.spec.held_out, "held_out")
    inputs = list(held_out.batch(range(INPUTS)).inputs)
    explainer.explain(inputs[:1], [ExplainOptions()])
    return {
        "estimate_s": [taken(lambda value=value: estimate(explainer, value)).wall for value in inputs],
        "flip_set_s": [taken(lambda value=value: explainer.find_flip_set(value)).wall for value in inputs],
    }


def estimate(explainer: Explainer, value: Tensor) -> None:
    """What the removal of its strongest proponents would do to an input."""
    [answer] = explainer.explain([value], [ExplainOptions(top_k=REMOVED)])
    ids = [influence.example_id for influence in answer.results[0].proponents]
    explainer.estimate_removal(value, Target(), ids, estimator=Estimator.SECOND_ORDER)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="directory that is kept between runs")
    parser.add_argument("--preset", default="mnist")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "exact_rebuild.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    directory = trained(options.preset, options.work)
    store = directory / "store"
    line = ("rebuild", directory, "--store", store, "--quiet", "--json")
    done = proponent(*line, threads=options.threads)
    built = {"wall_s": round(done.wall, 1), "cpu_s": round(done.cpu, 1), "peak_bytes": done.peak}
    bundle = Store(store).current(done.printed["model"])
    found = {"rows": done.printed["train_size"], "K": done.printed["embedding_size"], "rebuild": built}
    found |= {"cold": cold_open.measured(bundle, 2), "removals": removals(bundle)}
    write(options.out, found, options.threads)
    print(options.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
