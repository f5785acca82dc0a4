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
SUMS = ("covariance", "eigenvalues", "directions")
"""Stages that save nothing but parts of sums."""
DAY = 24 * 3600.0


def parts_bytes(each: int) -> int:
    """Of all parts of one sum."""
    return each * min(max(PART_BYTES // each, LEAST_PARTS), MOST_PARTS)


def per_row(found: Mapping[str, Any], stage: str) -> float:
    """Bytes that a stage saves of a row: it saves nothing else."""
    largest = max(_whole_chunks(found), key=lambda run: run["rows"])
    return float(largest["bytes"][stage]) / float(largest["rows"])


def _whole_chunks(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What was counted of the first model, in chunks as they are."""
    first = found["saved"][0]["model"]
    return [run for run in found["saved"] if run["model"] == first and run["chunk"] == CHUNK]


def _more_for_chunks(found: Mapping[str, Any]) -> float:
    """How many times as many bytes of sums the smallest chunks took, for the same rows of the same model."""
    small = min(found["saved"], key=lambda run: run["chunk"])
    [whole] = [run for run in _whole_chunks(found) if run["rows"] == small["rows"]]
    sums = [sum(run["bytes"][stage] for stage in SUMS) for run in (small, whole)]
    return float(sums[0]) / float(sums[1])


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
                    "reading_hours": 1e-3 * count * cluster["decoding_ms"] / 3600,
                    "saved_bytes": count * saved,
                    "sum_bytes": sum(map(parts_bytes, sums)),
                    "row_bytes": count * row,
                    "scanners": ceil(count * row / MEMORY),
                }
            )
    rows = cluster["timed"][0]["rows"]
    count = ceil(rows / CHUNK)
    merging: dict[int, list[float]] = {}
    for run in cluster["merging"]:
        merging.setdefault(run["batch"], []).append(run["ms"])
    return {
        "merging": merging,
        "shards": sorted({run["shards"] for run in cluster["merging"]}),
        "rows": rows,
        "stages": list(dict.fromkeys(stage for run in cluster["saved"] for stage in run["bytes"])),
        "chunked": _more_for_chunks(cluster),
        "chunks": f"{count} chunk{'s' * (count > 1)}",
        "table": table,
        "passes": passes,
        "row": row,
        "saved": saved,
        "peak": PEAK,
    }


def ratios(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What one worker costs beside a process, and what a second one gains, in CPU time where the machine is shared.

    Where each process has a core of its own, a rebuild takes at least the driver's CPU time and its busiest worker's.
    """
    return [
        {"model": run["model"], "rows": run["rows"], **_ratios(run["times"])} for run in results["cluster"]["timed"]
    ]


def _ratios(times: Mapping[str, Any]) -> dict[str, float]:
    process, one, two = (times[name] for name in ("process", "1 worker", "2 workers"))
    share = one["driver_s"] / one["cpu_s"]
    return {
        "overhead_cpu": one["cpu_s"] / process["cpu_s"] - 1,
        "overhead_two": two["cpu_s"] / process["cpu_s"] - 1,
        "driver_share": share,
        "most": 2 / (1 + share),
        "chunks": one["busiest_s"] / two["busiest_s"],
        "speed_up": process["cpu_s"] / (two["driver_s"] + two["busiest_s"]),
    }
