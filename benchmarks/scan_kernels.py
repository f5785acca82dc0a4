"""The scan beside FAISS's own kernels on one device: which exact one is fastest, and what the inexact ones lose.

The task is all six top-10 lists (three measures, both ends) of a batch of queries. The scan does it in one pass over
one copy of the rows. An index of FAISS ranks by one product alone, so it gets a copy of the rows for each measure,
scaled by that measure's weights, and searches each with the queries and with their negatives: six searches. Beside it
stands one such search of unit rows, which gives one list and is the least that any use of the kernel would take.
Products of all rows FAISS hands out only by a search for as many as there are or a range search without a bound; the
second, of one query, is measured as well.

Kernels on a processor: fp16 (the scan's own codes), 8 bits, 8 bits with the codes as they are, 4-bit fast scan, and
brute force in float32. On a GPU: brute force in fp16 and in float32. Exact is what gives the lists that float64 gives
over the fp16 rows; of the others the recall of the six lists is printed.

Run: ``python benchmarks/scan_kernels.py [--device cpu] [--rows 60000] [--size 768]``. Processor times are CPU time of
one thread by default; GPU times are wall times. Repeats are interleaved, ratios are of medians.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from commands import RESULTS, write
from scan import TOP, open_index, queries
from torch import Tensor

from proponent.index.rows import InfluenceIndex
from proponent.index.search import Hits, search
from proponent.options import Measure

BATCHES = (1, 32)
Lists = list[list[set[int]]]
"""By query, the rows of the six lists."""


def clock(device: torch.device) -> float:
    """Seconds: CPU time, or wall time once a GPU has finished."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def interleaved(runs: Mapping[str, Callable[[], object]], repeats: int, device: torch.device) -> dict[str, float]:
    """Median milliseconds of each, measured in turn; the first round is not counted."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            start = clock(device)
            run()
            if repeat:
                times[name].append(1e3 * (clock(device) - start))
    return {name: statistics.median(values) for name, values in times.items()}


def on_processor(rows: np.ndarray) -> dict[str, Any]:
    """An index of rows [N, K] by each kernel."""
    size, kind = rows.shape[1], faiss.ScalarQuantizer
    codecs = {"fp16": kind.QT_fp16, "8 bit": kind.QT_8bit, "8 bit direct": kind.QT_8bit_direct_signed}
    found: dict[str, Any] = {
        name: faiss.IndexScalarQuantizer(size, codec, faiss.METRIC_INNER_PRODUCT) for name, codec in codecs.items()
    }
    found["4 bit fast scan"] = faiss.IndexPQFastScan(size, size // 2, 4, faiss.METRIC_INNER_PRODUCT)
    found["4 bit fast scan"].pq.cp.niter = 5
    found["float32 brute force"] = faiss.IndexFlatIP(size)
    for name, index in found.items():
        # Codes as they are hold whole numbers from -128 to 127 only: one scale for all rows.
        given = np.rint(rows * (127 / np.abs(rows).max())) if name == "8 bit direct" else rows
        index.train(given[:1024])
        index.add(given)
    return found


def on_gpu(rows: np.ndarray, device: torch.device) -> dict[str, Any]:
    """The same on a GPU, which keeps flat rows in fp16 or float32."""
    found = {}
    for name, is_half in (("fp16 brute force", True), ("float32 brute force", False)):
        config = faiss.GpuIndexFlatConfig()
        config.useFloat16, config.device = is_half, device.index or 0
        found[name] = faiss.GpuIndexFlatIP(faiss.StandardGpuResources(), rows.shape[1], config)
        found[name].add(rows)
    return found


def make(rows: Tensor, device: torch.device) -> dict[str, Any]:
    """Indices of rows [N, K] by every kernel that the device has."""
    given = rows.float().numpy()
    return on_processor(given) if device.type == "cpu" else on_gpu(given, device)


def six_searches(scaled: list[Any], asked: np.ndarray) -> Lists:
    """The six lists of each query from one index for each measure."""
    both = np.concatenate([asked, -asked])
    found = [index.search(both, TOP)[1] for index in scaled]
    return [
        [set(rows[b + end * len(asked)].tolist()) for rows in found for end in range(2)] for b in range(len(asked))
    ]


def our_lists(found: list[Mapping[Measure, tuple[Hits, Hits]]]) -> Lists:
    return [[set(hits.rows) for measure in Measure for hits in ends[measure]] for ends in found]


def recall(found: Lists, expected: Lists) -> float:
    """Mean share of the expected rows that were found."""
    pairs = [(a, b) for mine, truth in zip(found, expected, strict=True) for a, b in zip(mine, truth, strict=True)]
    return statistics.mean(len(a & b) / len(b) for a, b in pairs)


@dataclass(frozen=True)
class Kernels:
    """Indices of the same rows by kernel: of unit rows, and of rows scaled by each measure's weights."""

    unit: Mapping[str, Any]
    scaled: Sequence[Mapping[str, Any]]

    @classmethod
    def of(cls, index: InfluenceIndex, codes: Tensor) -> Kernels:
        """Of an index and its unit rows [N, K] on the host."""
        weights = [(scale / scale.max()).float()[:, None] for scale in index.exact_scales]
        return cls(make(codes, index.device), [make(codes.float() * weight, index.device) for weight in weights])

    def six(self, name: str, asked: np.ndarray) -> Lists:
        """All six lists by one kernel."""
        return six_searches([of[name] for of in self.scaled], asked)


def measure(index: InfluenceIndex, kernels: Kernels, size: int, batch: int, repeats: int) -> list[dict[str, Any]]:
    """A row for each kernel: six searches beside the scan, one search, and the recall of the six lists."""
    device, asked = index.device, queries(size, batch)
    directions = torch.stack([query.direction for query in asked]).numpy()
    runs: dict[str, Callable[[], object]] = {"scan": partial(search, index, asked, tuple(Measure))}
    for name, unit in kernels.unit.items():
        runs[f"{name}/six"] = partial(kernels.six, name, directions)
        runs[f"{name}/one"] = partial(unit.search, directions, TOP)
    if device.type == "cpu" and batch == 1:
        runs["fp16/range"] = partial(kernels.unit["fp16"].range_search, directions, -float(2**20))
    times = interleaved(runs, repeats, device)
    expected = our_lists(search(index, asked, tuple(Measure)))
    return [_row(name, batch, times, recall(kernels.six(name, directions), expected)) for name in kernels.unit]


def _row(name: str, batch: int, times: Mapping[str, float], kept: float) -> dict[str, Any]:
    every = {"range_ms": round(times[f"{name}/range"], 2)} if f"{name}/range" in times else {}
    return {
        "queries": batch,
        "kernel": name,
        "scan_ms": round(times["scan"], 2),
        "six_ms": round(times[f"{name}/six"], 2),
        "one_ms": round(times[f"{name}/one"], 2),
        "ratio": round(times[f"{name}/six"] / times["scan"], 2),
        "recall": round(kept, 4),
        **every,
    }


def run(device: torch.device, rows: int, size: int, repeats: int) -> list[dict[str, Any]]:
    """All batches on one device."""
    with tempfile.TemporaryDirectory() as work:
        index = open_index(Path(work), rows, size, device)
        kernels = Kernels.of(index, index._rows.between(slice(None))[:, :size].cpu())
        return [row for batch in BATCHES for row in measure(index, kernels, size, batch, repeats)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--size", type=int, default=768)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS / "scan_kernels.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    faiss.cvar.distance_compute_blas_threshold = 16  # brute force of 32 queries by BLAS, which is faster
    found = run(options.device, options.rows, options.size, options.repeats)
    for row in found:
        print(row)
    about = {"device": str(options.device), "rows": options.rows, "size": options.size}
    write(options.out, about | {"results": found}, options.threads)


if __name__ == "__main__":
    main()
