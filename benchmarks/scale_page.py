"""What a rebuild of millions of examples takes, by the slopes that ``cluster.py`` and others measured."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any

from sizing_page import at

from proponent.rebuild.batching import CHUNK
from proponent.rebuild.context import LEAST_PARTS, MOST_PARTS, PART_BYTES

EXAMPLES = (1_000_000, 10_000_000, 100_000_000)
SIZE = 768
PEAK = 67e12
"""Operations a second in single precision, without tensor cores: the data sheet of NVIDIA's H100 (SXM)."""
GPUS, MEMORY = 8, 256 << 30
"""Of the node that is counted in: as such machines are sold."""
DAY = 24 * 3600.0


def parts_bytes(each: int) -> int:
    """Of all parts of one sum."""
    return each * min(max(PART_BYTES // each, LEAST_PARTS), MOST_PARTS)


def per_row(found: Mapping[str, Any], stage: str) -> float:
    """Bytes that a stage saves of a row: it saves nothing else."""
    largest = found["saved"][-1]
    return float(largest["bytes"][stage]) / float(largest["rows"])


def figures(results: Mapping[str, Any]) -> dict[str, Any]:
    """Rows of the table, and what they are made of."""
    cluster, rates = results["cluster"], results["resnet50"]["images_per_second"]
    passes = 1 + rates["plain forward + backward"] / rates["rebuild's embedding pass"]
    row = at(results["sizing"]["fits"]["bytes_per_row"], SIZE)
    saved = per_row(cluster, "y-rows") + per_row(cluster, "rows")
    table = []
    for count in EXAMPLES:
        for network in cluster["networks"]:
            gpu_s = count * passes * network["flops"] / PEAK
            sums = 8 * network["covered"], network["covariance_bytes"], network["eigenvalue_bytes"]
            table.append(
                {
                    "examples": count,
                    "network": network["name"],
                    "gpu_hours": gpu_s / 3600,
                    "nodes": ceil(gpu_s / DAY / GPUS),
                    "driver_hours": 1e-3 * count * cluster["decoding_ms"] / 3600,
                    "saved_bytes": count * saved,
                    "sum_bytes": sum(map(parts_bytes, sums)),
                    "row_bytes": count * row,
                    "scanners": ceil(count * row / MEMORY),
                }
            )
    count = ceil(cluster["rows"] / CHUNK)
    merging: dict[int, list[float]] = {}
    for run in cluster["merging"]:
        merging.setdefault(run["batch"], []).append(run["ms"])
    return {
        "merging": merging,
        "shards": sorted({run["shards"] for run in cluster["merging"]}),
        "chunks": f"{count} chunk{'s' * (count > 1)}",
        "table": table,
        "passes": passes,
        "row": row,
        "saved": saved,
        "peak": PEAK,
    }


def ratios(results: Mapping[str, Any]) -> dict[str, float]:
    """What one worker costs beside a process, and what a second one gains, in CPU time where the machine is shared.

    Where each process has a core of its own, a rebuild takes at least the driver's CPU time and its busiest worker's.
    """
    process, one, two = (results["cluster"]["times"][name] for name in ("process", "1 worker", "2 workers"))
    return {
        "overhead_cpu": one["cpu_s"] / process["cpu_s"] - 1,
        "overhead_two": two["cpu_s"] / process["cpu_s"] - 1,
        "overhead_wall": one["wall_s"] / process["wall_s"] - 1,
        "driver_share": one["driver_s"] / one["cpu_s"],
        "chunks": one["busiest_s"] / two["busiest_s"],
        "speed_up": (one["driver_s"] + one["busiest_s"]) / (two["driver_s"] + two["busiest_s"]),
    }
