"""The service under load: throughput, latency, errors, processor time and memory.

Every row is measured on the gateway and, in turn, on its own TorchServe called past it: workers of the same kind, the
same bundle, the same clients. Predictions alone and beside explanations are measured in turn as well, so that what
else the machine does falls on both. Explanations are also asked of an Explainer in a process of its own, in batches,
and an empty method of grpc's own server says what a gRPC call of the gateway costs at least.

One command for all figures, on a quiet machine (about 10 minutes, and 15 for the soak)::

    python benchmarks/load.py --soak 15 --out benchmarks/results/load.json

A short look (about a minute) that writes nothing: ``python benchmarks/load.py --short``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from load_clients import Call, Sample, generate
from load_floor import Floor, running_floor
from load_page import section
from load_service import Service, picture, running

from proponent.index.bundle import read_manifest
from proponent.index.store import Store

_WARM_UP_S = 0.7
_PREDICTING, _EXPLAINING = 4, 32
CALLS = ("gRPC Predict", "HTTP Predict", "gRPC Explain", "HTTP Explain", "stream Explain")


class Bench:
    """One service and the processes that load it."""

    def __init__(self, service: Service | Floor, calls: dict[str, dict[str, Call]], seconds: float) -> None:
        self.service = service
        self.calls = calls
        self.seconds = seconds
        spawn = multiprocessing.get_context("spawn")
        self._pools = [ProcessPoolExecutor(1, mp_context=spawn) for _ in range(2)]

    def measure(self, *loads: tuple[Call, int]) -> tuple[list[Sample], dict[str, float]]:
        """What the clients of up to two calls see at the same time, and the processor time that it takes."""
        pairs = list(zip(self._pools, loads, strict=False))
        pending = [pool.submit(generate, *load, self.seconds, _WARM_UP_S) for pool, load in pairs]
        before = self.service.cpu_seconds()
        samples = [each.result() for each in pending]
        after = self.service.cpu_seconds()
        return samples, {name: after[name] - before[name] for name in after}

    def row(self, rounds: Sequence[tuple[Sample, dict[str, float]]]) -> dict[str, Any]:
        """Figures of all rounds together; processor time is that of all calls, those of the warm-up included."""
        sample, cpu = together([sample for sample, _ in rounds]), added([cpu for _, cpu in rounds])
        found, answered = sorted(sample.seconds), len(sample.seconds) * (1 + _WARM_UP_S / self.seconds)
        return {
            "per_second": round(len(found) / self.seconds / len(rounds), 1),
            "p50_ms": round(1e3 * statistics.median(found), 2) if found else None,
            "p99_ms": round(1e3 * found[int(0.99 * len(found))], 2) if found else None,
            "errors": sample.errors,
            "cpu_ms_per_call": {name: round(1e3 * used / max(1.0, answered), 2) for name, used in cpu.items()},
        }

    def close(self) -> None:
        """Ends the processes."""
        for pool in self._pools:
            pool.shutdown()


def matrix(bench: Bench, names: Sequence[str], clients: Sequence[int], rounds: int) -> list[dict[str, Any]]:
    """Each call by each number of clients, at the gateway and past it in turn."""
    rows = []
    for name in names:
        for count in clients:
            rows.append({"call": name, "clients": count, **compared(bench, name, count, rounds)})
            _print_row(rows[-1])
    return rows


def compared(bench: Bench, name: str, count: int, rounds: int) -> dict[str, Any]:
    """One call at the gateway and past it, round by round in turn."""
    seen: dict[str, list[tuple[Sample, dict[str, float]]]] = {"gateway": [], "torchserve": []}
    for _ in range(rounds):
        for target, found in seen.items():
            [sample], cpu = bench.measure((bench.calls[name][target], count))
            found.append((sample, cpu))
    sides = {target: bench.row(found) for target, found in seen.items()}
    return {**sides, "ratio": round(sides["gateway"]["per_second"] / max(0.1, sides["torchserve"]["per_second"]), 2)}


def together(samples: Sequence[Sample]) -> Sample:
    """The samples of several rounds as one."""
    errors = Counter[str]()
    for sample in samples:
        errors.update(sample.errors)
    return Sample([s for sample in samples for s in sample.seconds], dict(errors), samples[0].first)


def added(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    """The processor time of several rounds."""
    return {name: sum(part[name] for part in parts) for name in parts[0]}


def _print_row(found: dict[str, Any]) -> None:
    sides = "   ".join(f"{side} {told(found[side])}" for side in ("gateway", "torchserve"))
    cpu = found["gateway"]["cpu_ms_per_call"]
    print(f"{found['call']:15} {found['clients']:3}  {sides}  ratio {found['ratio']:.2f}  cpu {cpu}", flush=True)


def told(found: dict[str, Any]) -> str:
    """Figures of one row on a line."""
    return f"{found['per_second']:.1f}/s p50 {found['p50_ms']} p99 {found['p99_ms']} {found['errors'] or ''}"


def floor(python: str, body: bytes, clients: Sequence[int], seconds: float, rounds: int) -> list[dict[str, Any]]:
    """An empty method of grpc's own server, by each number of clients."""
    rows = []
    with running_floor(python) as server:
        bench = Bench(server, {}, seconds)
        try:
            for count in clients:
                seen = []
                for _ in range(rounds):
                    [sample], cpu = bench.measure((server.call(body), count))
                    seen.append((sample, cpu))
                rows.append({"clients": count, **bench.row(seen)})
                print(f"empty method    {count:3}  {told(rows[-1])}  cpu {rows[-1]['cpu_ms_per_call']}", flush=True)
        finally:
            bench.close()
    return rows


def beside(bench: Bench, rounds: int) -> dict[str, Any]:
    """Predictions alone and beside explanations, in short rounds in turn."""
    predict, explain = bench.calls["gRPC Predict"]["gateway"], bench.calls["gRPC Explain"]["gateway"]
    seen: dict[str, list[tuple[Sample, dict[str, float]]]] = {"alone": [], "beside": [], "explaining": []}
    for _ in range(rounds):
        [sample], cpu = bench.measure((predict, _PREDICTING))
        seen["alone"].append((sample, cpu))
        [sample, other], cpu = bench.measure((predict, _PREDICTING), (explain, _EXPLAINING))
        seen["beside"].append((sample, cpu))
        seen["explaining"].append((other, cpu))
    found = {name: bench.row(each) for name, each in seen.items()}
    for name, each in found.items():
        print(f"{name:11} {told(each)}", flush=True)
    ratios = {
        "throughput": round(found["beside"]["per_second"] / found["alone"]["per_second"], 2),
        "p99": round(found["beside"]["p99_ms"] / found["alone"]["p99_ms"], 2),
    }
    print(ratios)
    return {"predicting": _PREDICTING, "explaining_clients": _EXPLAINING, **found, "ratios": ratios}


def soak(bench: Bench, service: Service, minutes: float) -> dict[str, Any]:
    """Predictions and explanations for some minutes; the slope of each part's memory over the last three quarters."""
    predict, explain = bench.calls["gRPC Predict"]["gateway"], bench.calls["HTTP Explain"]["gateway"]
    begun, seen, answered, errors = time.monotonic(), [], 0, Counter[str]()
    while time.monotonic() - begun < 60 * minutes:
        samples, _ = bench.measure((predict, 4), (explain, 8))
        answered += sum(len(each.seconds) for each in samples)
        for each in samples:
            errors.update(each.errors)
        seen.append(((time.monotonic() - begun) / 3600, service.memory_mib()))
    found = {"minutes": minutes, "answered": answered, "errors": dict(errors), "mib_an_hour": slopes(seen)}
    return {**found, "memory_mib": [{"hour": round(hour, 4), **memory} for hour, memory in seen[::10]]}


def slopes(seen: Sequence[tuple[float, dict[str, float]]]) -> dict[str, float]:
    """Of each part's memory, without the first quarter: the median over pairs of points (Theil and Sen).

    The system moves pages out and in again, which a line by least squares would follow.
    """
    settled = seen[len(seen) // 4 :]
    pairs = [(a, b) for number, a in enumerate(settled) for b in settled[number + 1 :]]
    return {
        name: round(statistics.median((b[1][name] - a[1][name]) / (b[0] - a[0]) for a, b in pairs), 2)
        for name in settled[0][1]
    }


def arguments() -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "store", type=Path, nargs="?", help="a store of bundles; without it the demo's digits are built"
    )
    parser.add_argument("model", nargs="?", default="digits")
    parser.add_argument("--short", action="store_true", help="1 and 8 clients, one round of 1 s")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument(
        "--calls", nargs="*", default=CALLS, choices=CALLS, help="none: only what is asked for beside"
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--soak", type=float, default=0.0, metavar="MINUTES", help="also load for long")
    parser.add_argument("--out", type=Path, help="where the figures go as JSON")
    parser.add_argument("--python", default=sys.executable, help="interpreter of the gateway")
    parser.add_argument("--serve", nargs="*", default=[], help="further options of proponent serve, without dashes")
    options = parser.parse_args()
    if options.short:
        options.clients, options.seconds, options.rounds = [1, 8], 1.0, 1
    return options


def built(work: Path) -> Path:
    """A store with the bundle of the demo's model."""
    runs, store = work / "runs", work / "store"
    for line in (f"train digits --out {runs}", f"rebuild {runs} --store {store} --quiet"):
        subprocess.run([sys.executable, "-m", "proponent.cli", *line.split()], check=True, stdout=subprocess.DEVNULL)
    return store


def measured(options: argparse.Namespace, store: Path) -> dict[str, Any]:
    """All figures."""
    bundle = Store(store).current(options.model)
    image, begun = picture(read_manifest(bundle)), os.getloadavg()[0]
    found: dict[str, Any] = {
        "machine": f"{os.cpu_count()} cores",
        "seconds": options.seconds,
        "rounds": options.rounds,
    }
    room = ["--max-streams", str(max(32, *options.clients, 0))]
    with running(options.python, store, [*room, *(f"--{option}" for option in options.serve)]) as service:
        if options.calls:
            service.register_past(bundle)
        bench = Bench(service, service.calls(options.model, image), options.seconds)
        try:
            found["matrix"] = matrix(bench, options.calls, options.clients, options.rounds)
            body = bench.calls["gRPC Predict"]["gateway"].body
            found["floor"] = floor(options.python, body, options.clients, options.seconds, options.rounds)
            found["beside"] = beside(bench, 2 * options.rounds)
            found["soak"] = soak(bench, service, options.soak) if options.soak else None
            found["memory_mib"] = service.memory_mib()
        finally:
            bench.close()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as workers have it
    from load_in_process import in_process  # torch, which the processes of clients do not need

    return {
        **found,
        "in_process": in_process(bundle, image, options.seconds),
        "load_average": [begun, os.getloadavg()[0]],
    }


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory() as work:
        found = measured(options, options.store or built(Path(work)))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(section(found))


if __name__ == "__main__":
    main()
