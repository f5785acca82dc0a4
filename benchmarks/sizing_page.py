"""The page of ``sizing.py``: lines through what was measured, and what a service needs by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

TEMPLATE = Path(__file__).parent / "sizing_template.md"
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


def page(results: Mapping[str, Any]) -> str:
    """docs/sizing.md."""
    fit, service = results["fits"], results["service"]
    per_gigabyte = fit["search_1_s"]["slope"] * 1e9 / fit["bytes_per_row"]["slope"]
    table = "".join(
        f"| {name} | {rows:,} | {size} | {parameters:,} | {amount(s['row_bytes'])} | {amount(s['disk_bytes'])} "
        f"| {amount(s['worker_bytes'])} | {s['latency_s']:.2g} s | {s['thousand_s']:,.0f} s |\n"
        for name, rows, size, parameters in ROWS
        for s in [sized(results, rows, size, parameters)]
    )
    searches = "".join(
        f"| {s['rows']:,} | {s['size']} | {1e3 * s['search_1_s']:.2f} ms | {1e3 * s[f'search_{BATCH}_s']:.2f} ms |\n"
        for s in results["searches"]
    )
    models = "".join(
        f"| {m['parameters']:,} | {1e3 * m['predict_s']:.2f} ms | {1e3 * m['explain_s']:.2f} ms "
        f"| {1e3 * m['explain_batch_s']:.2f} ms | {amount(m['resident_bytes'])} | {amount(m['bundle_bytes'])} |\n"
        for m in results["models"]
    )
    return TEMPLATE.read_text(encoding="utf-8").format(
        table=table,
        searches=searches,
        models=models,
        batch=BATCH,
        examples=EXAMPLES,
        machine=results["machine"],
        per_gigabyte=per_gigabyte,
        row_extra=fit["bytes_per_row"]["at_zero"],
        row_slope=fit["bytes_per_row"]["slope"],
        off=max(each["off"] for each in fit.values()),
        per_million=1e3 * 1e6 * fit["explain_s"]["slope"],
        bytes_each=fit["resident_bytes"]["slope"],
        base=amount(fit["resident_bytes"]["at_zero"]),
        gateway=amount(service["gateway_bytes"]),
        java=amount(service["java_bytes"]),
        worker=amount(service["workers_bytes"]),
        **{key: 1e3 * value for key, value in service.items() if key.endswith("_s")},
    )
