"""The service under load: throughput, latency, errors, processor time and memory.

Every row is measured on the gateway and, in turn, on its own TorchServe called past it: the same workers, the same
bundle, the same clients. Explanations are also asked of an Explainer in this machine's process, in batches.

Run: ``python benchmarks/load.py STORE MODEL [--clients 1 8 32 64] [--seconds 5] [--soak MINUTES]``. Prints tables,
and then one JSON object.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from load_clients import Call, Sample, generate
from load_service import Service, picture, running

from proponent.index.bundle import read_manifest
from proponent.index.store import Store

_WARM_UP_S = 0.7
_PREDICTING, _EXPLAINING = 4, 32
CALLS = ("gRPC Predict", "HTTP Predict", "gRPC Explain", "HTTP Explain", "stream Explain")


class Bench:
    """One service and the processes that load it."""

    def __init__(self, service: Service, calls: dict[str, dict[str, Call]], seconds: float) -> None:
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

    def close(self) -> None:
        """Ends the processes."""
        for pool in self._pools:
            pool.shutdown()


def row(sample: Sample, seconds: float, cpu: dict[str, float]) -> dict[str, Any]:
    """Figures of one measurement; processor time is that of all calls, those of the warm-up included."""
    found = sorted(sample.seconds)
    answered = len(found) * (1 + _WARM_UP_S / seconds)
    return {
        "per_second": round(len(found) / seconds, 1),
        "p50_ms": round(1e3 * statistics.median(found), 2) if found else None,
        "p99_ms": round(1e3 * found[int(0.99 * len(found))], 2) if found else None,
        "errors": sample.errors,
        "cpu_ms_per_call": {name: round(1e3 * used / max(1.0, answered), 2) for name, used in cpu.items()},
    }


def matrix(bench: Bench, names: Sequence[str], clients: Sequence[int], rounds: int) -> list[dict[str, Any]]:
    """Each call by each number of clients, at the gateway and past it in turn."""
    rows = []
    for name in names:
        for count in clients:
            seen: dict[str, list[dict[str, Any]]] = {"gateway": [], "torchserve": []}
            for _ in range(rounds):
                for target in seen:
                    [sample], cpu = bench.measure((bench.calls[name][target], count))
                    seen[target].append(row(sample, bench.seconds, cpu))
            middle = {target: _middle(found) for target, found in seen.items()}
            ratio = round(middle["gateway"]["per_second"] / max(0.1, middle["torchserve"]["per_second"]), 2)
            rows.append({"call": name, "clients": count, **middle, "ratio": ratio})
            _print_row(rows[-1])
    return rows


def _middle(found: list[dict[str, Any]]) -> dict[str, Any]:
    return sorted(found, key=lambda each: each["per_second"])[len(found) // 2]


def _print_row(found: dict[str, Any]) -> None:
    sides = "   ".join(
        f"{side} {found[side]['per_second']:8.1f}/s p50 {found[side]['p50_ms']:7.2f} p99 {found[side]['p99_ms']:7.2f}"
        for side in ("gateway", "torchserve")
    )
    errors = {side: found[side]["errors"] for side in ("gateway", "torchserve") if found[side]["errors"]}
    cpu = found["gateway"]["cpu_ms_per_call"]
    print(f"{found['call']:15} {found['clients']:3}  {sides}  ratio {found['ratio']:.2f}  cpu {cpu} {errors or ''}")


def beside(bench: Bench, rounds: int) -> dict[str, Any]:
    """Predictions alone and beside explanations, in turn."""
    predict, explain = bench.calls["gRPC Predict"]["gateway"], bench.calls["gRPC Explain"]["gateway"]
    alone, together, explaining = [], [], []
    for _ in range(rounds):
        [sample], cpu = bench.measure((predict, _PREDICTING))
        alone.append(row(sample, bench.seconds, cpu))
        [sample, other], cpu = bench.measure((predict, _PREDICTING), (explain, _EXPLAINING))
        together.append(row(sample, bench.seconds, cpu))
        explaining.append(row(other, bench.seconds, cpu))
    found = {"alone": _middle(alone), "beside": _middle(together), "explaining": _middle(explaining)}
    for name, each in found.items():
        print(f"{name:11} {each['per_second']:8.1f}/s p50 {each['p50_ms']:7.2f} p99 {each['p99_ms']:7.2f}")
    ratios = {
        "throughput": round(found["beside"]["per_second"] / found["alone"]["per_second"], 2),
        "p99": round(found["beside"]["p99_ms"] / found["alone"]["p99_ms"], 2),
    }
    print(ratios)
    return {"predicting": _PREDICTING, "explaining_clients": _EXPLAINING, **found, "ratios": ratios}


def soak(bench: Bench, minutes: float) -> dict[str, Any]:
    """Predictions and explanations for some minutes; the slope of each part's memory over the last three quarters."""
    predict, explain = bench.calls["gRPC Predict"]["gateway"], bench.calls["HTTP Explain"]["gateway"]
    begun, seen, answered, errors = time.monotonic(), [], 0, Counter[str]()
    while time.monotonic() - begun < 60 * minutes:
        samples, _ = bench.measure((predict, 4), (explain, 8))
        answered += sum(len(each.seconds) for each in samples)
        for each in samples:
            errors.update(each.errors)
        seen.append(((time.monotonic() - begun) / 3600, bench.service.memory_mib()))
    settled = seen[len(seen) // 4 :]
    hours = [hour for hour, _ in settled]
    slopes = {
        name: round(statistics.linear_regression(hours, [memory[name] for _, memory in settled]).slope, 2)
        for name in settled[0][1]
    }
    found = {"minutes": minutes, "answered": answered, "errors": dict(errors), "mib_an_hour": slopes}
    print({**found, "first": settled[0][1], "last": settled[-1][1]})
    return {**found, "memory_mib": [{"hour": round(hour, 4), **memory} for hour, memory in seen]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("model")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--calls", nargs="*", default=CALLS, choices=CALLS)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--beside", action="store_true", help="also predictions beside explanations")
    parser.add_argument("--in-process", action="store_true", help="also an Explainer without any service")
    parser.add_argument("--soak", type=float, default=0.0, metavar="MINUTES")
    parser.add_argument("--python", default=sys.executable, help="interpreter of the gateway")
    parser.add_argument("--serve", nargs="*", default=[], help="further options of proponent serve, without dashes")
    options = parser.parse_args()
    bundle = Store(options.store).current(options.model)
    image = picture(read_manifest(bundle))
    flags = [f"--{option}" for option in options.serve]
    with running(options.python, options.store, flags) as service:
        bench = Bench(service, service.calls(options.model, image), options.seconds)
        try:
            found = {
                "matrix": matrix(bench, options.calls, options.clients, options.rounds),
                "beside": beside(bench, options.rounds) if options.beside else None,
                "soak": soak(bench, options.soak) if options.soak else None,
                "memory_mib": service.memory_mib(),
            }
        finally:
            bench.close()
    if options.in_process:
        from load_in_process import in_process  # torch, which the processes of clients do not need

        found["in_process"] = in_process(bundle, image, options.seconds)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
