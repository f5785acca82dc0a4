"""Time of a diverse selection: k = 10 of 1,000 candidates, K = 768, for each redundancy term.

Run: ``OMP_NUM_THREADS=1 python benchmarks/divine.py``. Prints one JSON object, then a table.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable

import torch
from torch.nn.functional import normalize

from proponent.attribution.divine import (
    PoolDomain,
    facility_location,
    mean_discrepancy,
    median_bandwidth,
    sum_redundancy,
)

CANDIDATES, SIZE, K, GAMMA = 1000, 768, 10, 1.0
REPEATS = 30


def milliseconds(run: Callable[[], object]) -> dict[str, float]:
    run()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - start))
    return {"median_ms": round(statistics.median(times), 2), "best_ms": round(min(times), 2)}


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(40, SIZE, generator=generator)
    noise = torch.randn(CANDIDATES, SIZE, generator=generator)
    rows = normalize(centres[torch.arange(CANDIDATES) % 40] + 0.7 * noise, dim=1)
    influences = torch.rand(CANDIDATES, generator=generator, dtype=torch.float64).sort(descending=True).values

    def run_sum() -> list[int]:
        return sum_redundancy(influences, rows, K, GAMMA, median_bandwidth(rows))

    def run_facility() -> list[int]:
        return facility_location(influences, K, GAMMA, PoolDomain(rows, median_bandwidth(rows)))

    def run_mmd() -> list[int]:
        sigma = median_bandwidth(rows)
        return mean_discrepancy(influences, rows, K, GAMMA, sigma, PoolDomain(rows, sigma))

    runs = {"sum-redundancy": run_sum, "facility-location": run_facility, "mmd": run_mmd}
    found = {name: milliseconds(run) for name, run in runs.items()}
    setting = {"candidates": CANDIDATES, "K": SIZE, "k": K, "threads": torch.get_num_threads()}
    print(json.dumps({**setting, "results": found}))
    print(f"{'term':20} {'median ms':>10} {'best ms':>10}")
    for name, times in found.items():
        print(f"{name:20} {times['median_ms']:10.2f} {times['best_ms']:10.2f}")


if __name__ == "__main__":
    main()
