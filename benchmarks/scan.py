"""Time of one scan, all six lists, against the machine's own read bandwidth and against a BLAS product.

For one query the floor is the time to read the fp16 rows once, measured in the same run with the same threads on
a buffer of the same size. For 32 queries the peer is one fp32 matrix product of the same size (rows already
widened to fp32, which takes twice the memory). Repeats are interleaved; ratios are of medians.

Run: ``python benchmarks/scan.py [--threads 2 1] [--rows 60000]``. Writes JSON.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from commands import RESULTS, write

from proponent.index.rows import InfluenceIndex, write_rows, write_scales
from proponent.index.scan import Query
from proponent.index.search import search
from proponent.index.searchable import RowScales
from proponent.options import Measure

BATCH = 32
TOP = 10


def open_index(directory: Path, rows: int, size: int, device: torch.device | None = None) -> InfluenceIndex:
    """An index of random unit rows whose norms span four orders of magnitude, as those of a trained network do."""
    generator = torch.Generator().manual_seed(0)

    def blocks() -> Iterator[torch.Tensor]:
        for start in range(0, rows, 50_000):
            wide = torch.randn(min(50_000, rows - start), size, generator=generator)
            yield torch.nn.functional.normalize(wide, dim=1).half()

    norms = torch.logspace(-3, 1, rows, dtype=torch.float64)[torch.randperm(rows, generator=generator)]
    ratio = 0.5 + 0.5 * torch.rand(rows, generator=generator, dtype=torch.float64)
    directed = torch.ones(rows, dtype=torch.bool)
    columns = {name: norms.clone() for name in RowScales.__dataclass_fields__}
    columns |= {"relative_theta": ratio, "relative_l": ratio.clone(), "has_direction": directed}
    scales = RowScales(**columns)
    write_rows(directory / "rows", blocks(), size)
    write_scales(directory / "scales", scales)
    return InfluenceIndex.open(directory / "rows", directory / "scales", size, device)


def queries(size: int, count: int) -> list[Query]:
    generator = torch.Generator().manual_seed(1)
    directions = torch.nn.functional.normalize(torch.randn(count, size, generator=generator), dim=1)
    return [Query(direction, 1.0, TOP) for direction in directions]


def interleaved(runs: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median milliseconds of each, measured in turn."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if repeat:
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def measure(rows: int, size: int) -> list[dict[str, object]]:
    with tempfile.TemporaryDirectory() as work:
        index = open_index(Path(work), rows, size)
        one, many = queries(size, 1), queries(size, BATCH)
        buffer = torch.zeros(rows * size // 4, dtype=torch.int64)
        wide = torch.randn(rows, size)
        block = torch.stack([query.direction for query in many])
        single = interleaved(
            {
                "floor": lambda: buffer.sum(),
                "product": lambda: index.products(one[0].direction[None]),
                "search": lambda: search(index, one, tuple(Measure)),
            },
            15,
        )
        batch = interleaved(
            {"blas": lambda: block @ wide.T, "search": lambda: search(index, many, tuple(Measure))}, 5
        )
    return [
        {"queries": 1, "K": size, "peer": "read bandwidth, fp16", "target": 1.5, **_row(single, "floor")},
        {"queries": BATCH, "K": size, "peer": "fp32 BLAS product", "target": 1.3, **_row(batch, "blas")},
    ]


def slope(counts: Sequence[int], size: int) -> list[dict[str, object]]:
    """One query over ever more rows."""
    found: list[dict[str, object]] = []
    for count in counts:
        with tempfile.TemporaryDirectory() as work:
            index, one = open_index(Path(work), count, size), queries(size, 1)
            times = interleaved({"search": partial(search, index, one, tuple(Measure))}, 15)
        found.append({"rows": count, "K": size, "search_ms": round(times["search"], 2)})
    return found


def _row(times: Mapping[str, float], peer: str) -> dict[str, object]:
    extra = {"product_ms": round(times["product"], 2)} if "product" in times else {}
    ratio = round(times["search"] / times[peer], 2)
    return {"search_ms": round(times["search"], 2), "peer_ms": round(times[peer], 2), "ratio": ratio, **extra}


def run(threads: int, rows: int, growing: Sequence[int]) -> dict[str, object]:
    """All that is measured with so many threads."""
    torch.set_num_threads(threads)
    found = [row for size in (512, 2048) for row in measure(rows, size)]
    return {"threads": threads, "rows": rows, "results": found, "slope": slope(growing, 768) if growing else []}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1])
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--slope", type=int, nargs="*", default=[60_000, 240_000, 960_000], help="rows of one query")
    parser.add_argument("--out", type=Path, default=RESULTS / "scan.json")
    options = parser.parse_args()
    growing = {options.threads[0]: options.slope}
    runs = [run(threads, options.rows, growing.get(threads, [])) for threads in options.threads]
    write(options.out, {"runs": runs}, max(options.threads))
    print(options.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
