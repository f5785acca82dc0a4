"""Every benchmark in one run, one after the other, on the code as it is; then the pages that are made of them.

Hours, on a quiet machine. Each is a process with a log of its own in the working directory; one that fails stops no
other. A run that was interrupted goes on where it was, as long as the commit is the same. Needs the datasets
(environment variable PROPONENT_DATA), Kronfluence and Chromium.

Run: ``benchmarks/all --work DIRECTORY [--only NAME ...] [--list]``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import render
from commands import RESULTS, trained, write

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Benchmark:
    """One command; ``{work}`` stands for the working directory, ``{digits}`` for a store that holds digits."""

    name: str
    line: str
    minutes: int


BENCHMARKS = (
    Benchmark("lds", "kronfluence_peer.py lds --work {work}/peer", 150),
    Benchmark("distilled", "distilled.py --presets mnist-cnn,cifar10-cnn --work {work}/peer", 240),
    Benchmark("fit", "kronfluence_peer.py fit --work {work}/peer", 12),
    Benchmark("query", "kronfluence_peer.py query --work {work}/peer", 15),
    Benchmark("interval_coverage", "interval_coverage.py --work {work}", 10),
    Benchmark("audits", "audits.py --work {work}", 40),
    Benchmark("compression", "compression.py {resnet20} --truth {work}/truth --dampings 10,100,1000", 150),
    Benchmark("explain_cost", "explain_cost.py --work {work}/explain --epochs 1", 15),
    Benchmark("rebuild_cost", "rebuild_cost.py --work {work}/explain --epochs 1", 15),
    Benchmark("cluster", "cluster.py --work {work}/explain", 15),
    Benchmark("cost", "cost.py --work {work}/cost --threads 1", 40),
    Benchmark("exact_rebuild", "exact_rebuild.py --work {work}", 15),
    Benchmark("memory", "memory.py", 5),
    Benchmark("resnet50", "resnet50.py --stem cifar", 10),
    Benchmark("scan", "scan.py", 5),
    Benchmark("scan_kernels", "scan_kernels.py", 5),
    Benchmark("row_codes", "row_codes.py --work {work}", 15),
    Benchmark("highlights", "highlights.py --work {work}", 15),
    Benchmark("divine", "divine.py --work {work}", 5),
    Benchmark("privacy", "privacy.py {digits} --out {results}/privacy.json", 5),
    Benchmark("sizing", "sizing.py", 5),
    Benchmark("load", "load.py --clients 1 8 32 64 --soak 15 --out {results}/load.json", 30),
    Benchmark("hosts", "hosts.py {digits} digits", 5),
    Benchmark("explorer", "explorer.py --work {work}", 3),
    Benchmark("faults", "{tests} --switches 100 --kills 50 --record {results}/faults.json", 30),
)
TESTS = "-m pytest -q --slow {root}/tests/e2e/test_switch.py {root}/tests/e2e/test_kills.py"


class Run:
    """What has been measured so far, on which commit; kept in the working directory."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=HERE, check=True, capture_output=True, text=True
        ).stdout.strip()
        self._file = work / "run_all.json"
        kept = json.loads(self._file.read_text(encoding="utf-8")) if self._file.exists() else {}
        same = kept.get("commit") == self.commit
        self.finished: dict[str, Any] = kept["finished"] if same else {}

    def measure(self, benchmark: Benchmark) -> bool:
        """Runs one unless it has been; whether it went well."""
        if benchmark.name in self.finished:
            return True
        begin, log = time.monotonic(), self.work / f"{benchmark.name}.log"
        try:
            line = [sys.executable, *benchmark.line.format_map(self._places(benchmark)).split()]
        except (SystemExit, subprocess.CalledProcessError) as error:
            print(f"{benchmark.name}: what it needs was not made: {error}", flush=True)
            return False
        print(f"{benchmark.name}: about {benchmark.minutes} min, log in {log}", flush=True)
        with log.open("w") as file:
            failed = subprocess.run(line, cwd=HERE, stdout=file, stderr=subprocess.STDOUT).returncode
        if failed:
            print(f"{benchmark.name}: failed with status {failed}, see {log}", flush=True)
            return False
        minutes = round((time.monotonic() - begin) / 60, 1)
        self.finished[benchmark.name] = {"minutes": minutes, "load_average": round(os.getloadavg()[0], 1)}
        self._file.write_text(json.dumps({"commit": self.commit, "finished": self.finished}), encoding="utf-8")
        return True

    def _places(self, benchmark: Benchmark) -> Mapping[str, object]:
        places = {"work": self.work, "results": RESULTS, "root": HERE.parent}
        places |= {"tests": TESTS.format_map(places)}
        if "{digits}" in benchmark.line:
            places["digits"] = self._digits()
        if "{resnet20}" in benchmark.line:
            places["resnet20"] = trained("cifar10-resnet20", self.work)
        return places

    def _digits(self) -> Path:
        directory = trained("digits", self.work)
        line = [
            sys.executable,
            "-m",
            "proponent.cli",
            "rebuild",
            directory,
            "--store",
            directory / "store",
            "--quiet",
        ]
        subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
        return directory / "store"

    def keep(self) -> None:
        """Writes what the pages say of the run, once all of it is done."""
        if self.finished.keys() >= {each.name for each in BENCHMARKS}:
            write(RESULTS / "run_all.json", {"commit": self.commit, "benchmarks": self.finished})


def chosen(names: Sequence[str] | None) -> Iterator[Benchmark]:
    """Those of these names, or all; SystemExit where there is none of a name."""
    known = {each.name: each for each in BENCHMARKS}
    for name in names or known:
        if name not in known:
            raise SystemExit(f"no benchmark {name!r}, expected one of {', '.join(known)}")
        yield known[name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="directory that is kept between runs")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these alone")
    parser.add_argument("--list", action="store_true", help="name them and how long they take")
    options = parser.parse_args()
    benchmarks = list(chosen(options.only))
    if options.list or options.work is None:
        print("".join(f"{each.name:12} {each.minutes:4} min  {each.line}\n" for each in benchmarks), end="")
        raise SystemExit(0 if options.list else "name a directory: --work DIRECTORY")
    options.work.mkdir(parents=True, exist_ok=True)
    run = Run(options.work.absolute())
    failed = [each.name for each in benchmarks if not run.measure(each)]
    run.keep()
    render.main()
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
