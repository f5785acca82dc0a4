"""Proponent beside Kronfluence 1.0.1 (EK-FAC): faithfulness, time to make ready, time of one query.

Both sides run in one process, on the same model, examples and threads. Results are written as JSON, a table is
printed. Needs the datasets (environment variable PROPONENT_DATA) and ``pip install kronfluence``.

Run: ``python benchmarks/kronfluence_peer.py lds --work DIRECTORY`` (or ``fit``, or ``query``). The directory keeps
trained models, retrained models' losses and the bundle for ``query``; what it holds already is not made anew.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import json
import platform
from pathlib import Path
from typing import Any

import kronfluence_lds
import kronfluence_timing
import torch
from ratios import compared
from truth import open_truth

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    options = _parser().parse_args()
    torch.set_num_threads(options.threads)
    options.run(options)


def run_lds(options: argparse.Namespace) -> None:
    """Each preset's seeds, and all of them together; other presets' rows of the file are kept."""
    for preset in options.presets:
        found = []
        for seed in options.seeds:
            print(f"{preset}, seed {seed}", flush=True)
            truth = open_truth(preset, seed, options.work)
            found.append(kronfluence_lds.compare(truth, options.jobs, options.trainings))
        together = {
            "preset": preset,
            "seeds": options.seeds,
            **compared([each.pair for each in found]),
        }
        content = json.loads(options.out.read_text()) if options.out.exists() else {"results": [], "together": []}
        rows = [*_others(content["results"], preset), *(each.row for each in found)]
        _write(options, rows, together=[*_others(content["together"], preset), together])
    _print_lds(json.loads(options.out.read_text()))


def _others(rows: list[dict[str, Any]], preset: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["preset"] != preset]


def run_sums(options: argparse.Namespace) -> None:
    """All scores of ``lds`` alone, in the working directory: they need no truth, and their machine none of it."""
    for seed, preset in itertools.product(options.seeds, options.presets):
        truth = open_truth(preset, seed, options.work)
        kronfluence_lds.peer_sums(truth)
        kronfluence_lds.own_sums(truth)


def _print_lds(content: dict[str, Any]) -> None:
    print("| model | seed | proponent | Kronfluence | its defaults: 1e-8, heuristic | ratio | 95 % |")
    print("|---|---|---|---|---|---|---|")
    for row in content["results"]:
        own, peer = row["proponent"], row["kronfluence"]
        defaults = ", ".join(f"{each['test']:.3f}" for each in row["kronfluence_defaults"].values())
        print(
            f"| {row['preset']} | {row['seed']} | {own['test']:.4f} {_short(own)} "
            f"| {peer['test']:.4f} {_short(peer)} | {defaults} | {row['ratio']:.3f} | {_range(row)} |"
        )
    for row in content["together"]:
        own, peer = row["ours"], row["theirs"]
        print(f"| {row['preset']} | all | {own:.4f} | {peer:.4f} | | {row['ratio']:.3f} | {_range(row)} |")


def _short(side: dict[str, Any]) -> str:
    return (
        "("
        + ", ".join(
            f"{name} {value if isinstance(value, str) else format(value, '.3g')}"
            for name, value in side["setting"].items()
        )
        + ")"
    )


def _range(row: dict[str, Any]) -> str:
    return " - ".join(f"{end:.3f}" for end in row["ratio_95"])


def run_fit(options: argparse.Namespace) -> None:
    """Each preset."""
    rows = _rows(options.out)
    for preset in options.presets:
        row = kronfluence_timing.fit(preset, options.seed, options.work, options.repeats)
        rows = [*(old for old in rows if old["preset"] != preset), row]
        _write(options, rows)
    print("| model | clock | factors and rows | whole rebuild | Kronfluence: factors + pass of 1 (200) | ratios |")
    print("|---|---|---|---|---|---|")
    for row, clock in itertools.product(rows, ("cpu", "wall")):
        s, ratios = row[f"{clock}_s"], row[f"{clock}_ratio"].values()
        print(
            f"| {row['preset']} | {clock} | {s['embedding']:.1f} s | {s['rebuild']:.1f} s | "
            f"{s['factors']:.1f} s + {s['pass_1']:.1f} s ({s['pass_200']:.1f} s) | "
            f"{', '.join(f'{ratio:.2f}' for ratio in ratios)} |"
        )


def run_query(options: argparse.Namespace) -> None:
    """One row for each number of rows that Kronfluence is measured on."""
    rows = kronfluence_timing.query(
        options.preset, options.seed, options.work, options.epochs, options.peer_rows, options.repeats
    )
    _write(options, rows)
    print("| N | clock | proponent | Kronfluence | measured on | ratio |")
    print("|---|---|---|---|---|---|")
    for row, clock in itertools.product(rows, ("cpu", "wall")):
        how = " rows, scaled linearly" if row["extrapolated_linearly"] else " rows"
        s = row[clock]
        print(
            f"| {row['rows']} | {clock} | {s['proponent_ms']:.1f} ms | {s['kronfluence_s']:.1f} s "
            f"| {row['kronfluence_rows_measured']}{how} | {s['ratio']:.0f} |"
        )


def _rows(out: Path) -> list[dict[str, Any]]:
    return json.loads(out.read_text())["results"] if out.exists() else []


def _write(options: argparse.Namespace, rows: list[dict[str, Any]], **more: object) -> None:
    versions = {name: importlib.metadata.version(name) for name in ("proponent", "kronfluence", "torch")}
    machine = {"python": platform.python_version(), "machine": platform.machine(), "threads": options.threads}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(machine | {"versions": versions, "results": rows, **more}, indent=1) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    lds = commands.add_parser("lds", help="linear datamodeling scores over the same damping grid")
    lds.add_argument("--presets", type=_names, default=["mnist-cnn", "cifar10-cnn"], help="comma-separated")
    lds.add_argument("--seeds", type=_numbers, default=[0, 1, 2], help="of the models; comma-separated")
    lds.add_argument("--jobs", type=int, default=1, help="processes for retraining")
    lds.add_argument("--trainings", type=int, default=1, help="of each half, whose mean losses are the truth")
    sums = commands.add_parser("sums", help="the scores of lds, summed over the halves, without the truth")
    sums.add_argument("--presets", type=_names, required=True, help="comma-separated")
    sums.add_argument("--seeds", type=_numbers, default=[0, 1, 2], help="of the models; comma-separated")
    fit = commands.add_parser("fit", help="factors and rows against factors and one pairwise pass")
    fit.add_argument("--presets", type=_names, default=["mnist-cnn", "cifar10-cnn"], help="comma-separated")
    fit.add_argument("--seed", type=int, default=0)
    fit.add_argument("--repeats", type=int, default=3)
    query = commands.add_parser("query", help="one explanation against one query's pairwise scores")
    query.add_argument("--preset", default="cifar10-cnn-50k")
    query.add_argument("--seed", type=int, default=0)
    query.add_argument("--epochs", type=int, help="train shorter: the times do not depend on it")
    query.add_argument("--peer-rows", type=_numbers, default=[5000, 50_000], help="rows scored by Kronfluence")
    query.add_argument("--repeats", type=int, default=3)
    for name, command, run in (
        ("lds", lds, run_lds),
        ("sums", sums, run_sums),
        ("fit", fit, run_fit),
        ("query", query, run_query),
    ):
        command.set_defaults(run=run)
        command.add_argument("--work", type=Path, required=True, help="directory that is kept between runs")
        command.add_argument("--threads", type=int, default=1)
        command.add_argument("--out", type=Path, default=RESULTS / f"kronfluence_{name}.json")
    return parser


def _names(text: str) -> list[str]:
    return text.split(",")


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    main()
