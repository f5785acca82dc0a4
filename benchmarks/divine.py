"""Time of a diverse selection, K = 768, for each redundancy term, over the pool and over a whole data set.

Run: ``OMP_NUM_THREADS=1 python benchmarks/divine.py [--whole 60000] [--k 10]``. Prints one JSON object, then a table.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from proponent.attribution.candidate_pool import Domain, Pool, median_bandwidth
from proponent.attribution.divine import FacilityLocation, MeanDiscrepancy, Selection, SumRedundancy

CANDIDATES, SIZE, GAMMA, LOSS = 1000, 768, 1.0, 0.1
REPEATS = 15
TERMS = {"sum-redundancy": SumRedundancy, "facility-location": FacilityLocation, "mmd": MeanDiscrepancy}


def milliseconds(run: Callable[[], object], repeats: int) -> dict[str, float]:
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - start))
    return {"median_ms": round(statistics.median(times), 2), "best_ms": round(min(times), 2)}


def unit_rows(count: int, seed: int) -> Tensor:
    """Forty loose clusters, the same for every seed."""
    centres = torch.randn(40, SIZE, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(count, SIZE, generator=torch.Generator().manual_seed(seed))
    return normalize(centres[torch.arange(count) % 40] + 0.7 * noise, dim=1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--whole", type=int, default=0, help="rows of the data set; 0: the pool alone")
    parser.add_argument("--k", type=int, default=10)
    options = parser.parse_args()
    rows = unit_rows(CANDIDATES, 1)
    generator = torch.Generator().manual_seed(0)
    influences = torch.rand(CANDIDATES, generator=generator, dtype=torch.float64).sort(descending=True).values
    whole = unit_rows(options.whole, 2).half() if options.whole else None

    def domain() -> Domain | None:
        return None if whole is None else Domain(len(whole), lambda: (part.float() for part in whole.split(2048)))

    def selection(term: str) -> Selection:
        pool = Pool(influences, rows, median_bandwidth(rows), domain())
        return Selection(pool, TERMS[term], options.k)

    found = {}
    repeats = REPEATS if whole is None else 3
    for term in TERMS:
        found[term] = milliseconds(lambda term=term: selection(term).at(GAMMA), repeats)
        found[f"{term}, loss <= {LOSS}"] = milliseconds(lambda term=term: selection(term).within(LOSS), repeats)
    setting = {"candidates": CANDIDATES, "K": SIZE, "k": options.k, "whole": options.whole}
    print(json.dumps({**setting, "threads": torch.get_num_threads(), "results": found}))
    print(f"{'term':32} {'median ms':>10} {'best ms':>10}")
    for name, times in found.items():
        print(f"{name:32} {times['median_ms']:10.2f} {times['best_ms']:10.2f}")


if __name__ == "__main__":
    main()
