"""What ``proponent audit`` and ``--damping auto`` say of models whose figures docs/performance.md tells.

Two models with exact curvature, audited by every check; how many different examples fill the lists of three more; and
one sweep of dampings.

Run: ``python benchmarks/audits.py --work DIRECTORY``. About 40 minutes; models that are trained already are kept.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from commands import RESULTS, proponent, trained, write

EXACT = {
    "digits": ("digits", (), ("--lds", 20, "--leave-one-out", 30, "--label-noise", 0.1, "--solver", 4)),
    "mnist": ("mnist", ("--limit", 4000), ("--lds", 50, "--queries", 200)),
}
OTHERS = ("mnist-cnn", "cifar10-cnn")
SWEPT = "mnist-cnn"


def audited(preset: str, options: tuple[object, ...], checks: tuple[object, ...], work: Path, jobs: int) -> Any:
    """One model's audit."""
    directory = trained(preset, work, *options)
    store = directory / "store"
    proponent("rebuild", directory, "--store", store, "--quiet", "--json")
    found = proponent("audit", "--store", store, *checks, "--jobs", jobs, "--quiet", "--json").printed
    for check in ("lds", "label_noise", "leave_one_out"):
        for points in ("per_query", "points", "recovery"):
            found.get(check, {}).pop(points, None)
    return found


def swept(work: Path) -> dict[str, Any]:
    """A sweep of dampings: what it chose among what, and the seconds that it took."""
    directory = trained(SWEPT, work)
    store = directory / "swept"
    done = proponent("rebuild", directory, "--store", store, "--damping", "auto", "--quiet", "--json")
    tuning, chosen = done.printed["audit"]["tuning"], done.printed["settings"]
    [score] = [
        trial["lds"]
        for trial in tuning["trials"]
        if all(trial[name] == chosen[name] for name in ("damping", "second_damping", "embedding_size"))
    ]
    return {
        "subsets": tuning["subsets"],
        "settings": len(tuning["trials"]),
        "chosen": {name: chosen[name] for name in ("damping", "second_damping", "embedding_size")},
        "lds": score,
        "best": max(trial["lds"] for trial in tuning["trials"]),
        "tied": sum(trial["is_tied"] for trial in tuning["trials"]),
        "wall_s": round(done.wall, 1),
        "cpu_s": round(done.cpu, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="directory that is kept between runs")
    parser.add_argument("--jobs", type=int, default=1, help="processes that retrain")
    parser.add_argument("--out", type=Path, default=RESULTS / "audits.json")
    options = parser.parse_args()
    found = {
        name: audited(preset, limits, checks, options.work, options.jobs)
        for name, (preset, limits, checks) in EXACT.items()
    }
    found |= {preset: audited(preset, (), ("--queries", 200), options.work, options.jobs) for preset in OTHERS}
    write(options.out, {"audits": found, "sweep": swept(options.work)})
    print(options.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
