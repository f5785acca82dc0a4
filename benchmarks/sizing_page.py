"""What ``sizing.py`` measured, in lines through the points, and what a service needs by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

BATCH = 16
EXAMPLES = 200
ROWS = [
    ("60,000 small images, a small network", 60_000, 768, 106_122),
    ("1.3 million images, ResNet-50", 1_281_167, 768, 25_557_032),
    ("10 million images, ResNet-50", 10_000_000, 768, 25_557_032),
    ("1.3 million images, ViT-B/16", 1_281_167, 768, 86_567_656),
]


def line(points: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Least squares: intercept, slope, and the largest distance of a point as a share of it."""
    x, y = np.array(points, dtype=float).T
    slope, intercept = np.polyfit(x, y, 1)
    return {"at_zero": intercept, "slope": slope, "off": float(np.abs(intercept + slope * x - y).max() / y.max())}


def fits(searches: Sequence[Mapping[str, float]], models: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Lines of search over N x K, and of explanations and memory over P."""
    scanned = {
        f"search_{count}_s": line([(s["rows"] * s["size"], s[f"search_{count}_s"]) for s in searches])
        for count in (1, BATCH)
    }
    keys = ("explain_s", "explain_batch_s", "predict_s", "resident_bytes", "bundle_bytes")
    scanned["bytes_per_row"] = line([(s["size"], s["bytes_per_row"]) for s in searches])
    return scanned | {key: line([(m["parameters"], m[key]) for m in models]) for key in keys}


def at(fit: Mapping[str, float], x: float) -> float:
    return max(0.0, fit["at_zero"]) + fit["slope"] * x


def sized(results: Mapping[str, Any], rows: int, size: int, parameters: int) -> dict[str, float]:
    """What a service of so many rows, numbers and parameters needs, by the lines."""
    fit, service = results["fits"], results["service"]
    row_bytes = rows * at(fit["bytes_per_row"], size)
    search, batched = at(fit["search_1_s"], rows * size), at(fit[f"search_{BATCH}_s"], rows * size) / BATCH
    beside = service["explain_gateway_s"] + service["explain_java_s"]
    return {
        "row_bytes": row_bytes,
        "disk_bytes": row_bytes
        + fit["bundle_bytes"]["slope"] * parameters
        + rows * results["models"][0]["catalog_bytes_per_example"],
        "worker_bytes": at(fit["resident_bytes"], parameters),
        "latency_s": search + at(fit["explain_s"], parameters) + beside,
        "thousand_s": 1000 * (batched + at(fit["explain_batch_s"], parameters) + beside),
    }


def amount(value: float) -> str:
    """Bytes with a unit."""
    exponent = next(power for power in (1, 2, 3) if value < 1000 ** (power + 1) or power == 3)
    return f"{value / 1000**exponent:.3g} {('kB', 'MB', 'GB')[exponent - 1]}"


def figures(results: Mapping[str, Any]) -> dict[str, Any]:
    """What the page tells beyond the results themselves."""
    fit = results["fits"]
    return {
        "batch": BATCH,
        "examples": EXAMPLES,
        "services": [(*row, sized(results, *row[1:])) for row in ROWS],
        "per_gigabyte": fit["search_1_s"]["slope"] * 1e9 / fit["bytes_per_row"]["slope"],
        "off": max(each["off"] for each in fit.values()),
    }
