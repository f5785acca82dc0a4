"""What shorter codes of the rows lose: recall@10 of all six lists against the rows as they are stored, in fp16.

Codes of unit rows u: whole numbers of 8 or 6 bits times one scale a row, of u itself or of a random rotation of
it, clipped at some multiples of its root mean square; and 4 and 3 bits by the levels that are best for normal numbers
(Lloyd and Max), with the scale of least squares. Queries are rows with noise of 0.3 of their norm, and are not coded:
a product with a code has the error of the code alone.

Beside recall stand the numbers that fit in 1.5 KB, of which there may then be more.

Run: ``python benchmarks/row_codes.py --work DIRECTORY``, which trains and rebuilds what is not there, or
``python benchmarks/row_codes.py BUNDLE [BUNDLE ...]``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from commands import RESULTS, rebuilt, write
from torch import Tensor
from torch.nn import functional

from proponent.attribution.agreement import top_overlap
from proponent.index.bundle import ROWS, SCALES, read_manifest
from proponent.index.rows import InfluenceIndex

PRESETS = ("mnist-cnn", "cifar10-resnet20")
QUERIES, TOP, NOISE = 150, 10, 0.3
ROW_BYTES = 1536
Code = Callable[[Tensor], Tensor]
"""Rows [N, K] to what their code stands for."""


def rotation(size: int) -> Tensor:
    """A random orthogonal matrix, [K, K]."""
    return torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(0)))[0]


def by_maximum(rows: Tensor) -> Tensor:
    """Eight bits, scaled by each row's largest number."""
    return _whole(rows, rows.abs().amax(dim=1, keepdim=True), 127)


def clipped(levels: int, deviations: float) -> Code:
    """Whole numbers up to ``levels``, clipped at so many root mean squares of a row."""
    return lambda rows: _whole(rows, deviations * _deviation(rows), levels)


def normal_levels(bits: int) -> Code:
    """The levels that are best for normal numbers."""
    levels = _lloyd(2**bits)

    def code(rows: Tensor) -> Tensor:
        unit = rows / _deviation(rows)
        chosen = levels[torch.bucketize(unit, (levels[1:] + levels[:-1]) / 2)]
        return chosen * (rows * chosen).sum(dim=1, keepdim=True) / chosen.square().sum(dim=1, keepdim=True)

    return code


def _whole(rows: Tensor, largest: Tensor, levels: int) -> Tensor:
    step = largest.clamp(min=torch.finfo(rows.dtype).tiny) / levels
    return (rows / step).round().clamp(-levels, levels) * step


def _deviation(rows: Tensor) -> Tensor:
    return rows.square().mean(dim=1, keepdim=True).sqrt().clamp(min=torch.finfo(rows.dtype).tiny)


def _lloyd(count: int) -> Tensor:
    values = torch.randn(200_000, generator=torch.Generator().manual_seed(1))
    levels = torch.quantile(values, (torch.arange(count) + 0.5) / count)
    for _ in range(60):
        place = torch.bucketize(values, (levels[1:] + levels[:-1]) / 2)
        levels = torch.zeros(count).index_add_(0, place, values) / torch.bincount(place, minlength=count)
    return levels


CODES: dict[str, tuple[float, bool, Code]] = {
    "8 bits, scaled by the largest": (8, False, by_maximum),
    "8 bits, rotated, clipped at 4": (8, True, clipped(127, 4.0)),
    "6 bits, rotated, clipped at 3.5": (6, True, clipped(31, 3.5)),
    "4 bits, rotated, normal levels": (4, True, normal_levels(4)),
    "3 bits, rotated, normal levels": (3, True, normal_levels(3)),
}
"""Bits of a number, whether the rows are rotated, and the code."""


def measure(bundle: Path) -> list[dict[str, Any]]:
    """A row for each code."""
    manifest = read_manifest(bundle)
    index = InfluenceIndex.open(bundle / ROWS, bundle / SCALES, manifest.embedding_size)
    rows = index.unit_rows(range(len(index)))
    generator = torch.Generator().manual_seed(0)
    own = torch.randperm(len(rows), generator=generator)[:QUERIES]
    noise = functional.normalize(torch.randn(len(own), rows.shape[1], generator=generator), dim=1)
    queries = functional.normalize(rows[own] + NOISE * noise, dim=1)
    weights = list(index.exact_scales)
    turn = rotation(rows.shape[1])

    def products(left: Tensor, right: Tensor) -> Tensor:
        found = left.double() @ right.double().mT
        found[torch.arange(len(own)), own] = 0.0
        return found

    exact, table = products(queries, rows), []
    for name, (bits, is_rotated, code) in CODES.items():
        given = (queries @ turn, rows @ turn) if is_rotated else (queries, rows)
        found = products(given[0], code(given[1]))
        recall = [
            float(top_overlap(sign * found * w, sign * exact * w, TOP).mean()) for w in weights for sign in (1, -1)
        ]
        table.append(
            {
                "model": bundle.parent.parent.name,
                "rows": len(rows),
                "K": rows.shape[1],
                "code": name,
                "numbers": int(8 * ROW_BYTES / bits),
                "recall": [round(value, 4) for value in recall],
                "error": float((found - exact).abs().mean()),
            }
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="*")
    parser.add_argument("--work", type=Path, help="directory that keeps trained models")
    parser.add_argument("--out", type=Path, default=RESULTS / "row_codes.json")
    options = parser.parse_args()
    if options.work is None and not options.bundles:
        parser.error("name a directory (--work) or bundles")
    bundles = options.bundles or [rebuilt(preset, options.work) for preset in PRESETS]
    found = [row for bundle in bundles for row in measure(bundle)]
    for row in found:
        print(row)
    write(options.out, {"results": found}, torch.get_num_threads())


if __name__ == "__main__":
    main()
