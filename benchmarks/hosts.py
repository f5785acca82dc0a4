"""TorchServe and plain processes as hosts of the same workers: two gateways on one store, measured in turn.

Of each: how long its start takes, alone; throughput and latency by gRPC; processor time of a call by process; memory
that processes share with nobody.

Run: ``python benchmarks/hosts.py STORE MODEL [--clients 1 8 32] [--seconds 5] [--rounds 3]``. Prints Markdown.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from load import Bench
from load_clients import Call, Sample
from load_service import Service, picture, running

from proponent.index.bundle import read_manifest
from proponent.index.store import Store
from proponent.v1 import explanation_pb2 as pb

HOSTS = ("torchserve", "processes")
_SERVICE = "/proponent.v1.ExplanationService"


@contextmanager
def started(store: Path, host: str) -> Iterator[tuple[Service, float]]:
    """A gateway with its workers on a host, and the seconds until it was ready."""
    begin = time.perf_counter()
    with running(sys.executable, store, ["--worker-host", host]) as service:
        yield service, time.perf_counter() - begin


def calls(service: Service, model: str, image: bytes) -> dict[str, dict[str, Call]]:
    """What is sent to a gateway, by the name of the call."""
    requests = {
        "Predict": pb.PredictRequest(model=model, encoded_image=image),
        "Explain": pb.ExplainRequest(model=model, encoded_image=image),
    }
    return {
        name: {"gateway": Call("grpc", service.grpc, f"{_SERVICE}/{name}", request.SerializeToString())}
        for name, request in requests.items()
    }


def compare(benches: dict[str, Bench], clients: list[int], rounds: int) -> None:
    """Each call by each number of clients, on both hosts in turn."""
    print("| call | clients | host | a second | p50 ms | p99 ms | errors | CPU-ms a call |\n" + "|---" * 8 + "|")
    for call in ("Predict", "Explain"):
        for count in clients:
            seen: dict[str, list[tuple[Sample, dict[str, float]]]] = {host: [] for host in benches}
            for _ in range(rounds):
                for host, bench in benches.items():
                    [sample], cpu = bench.measure((bench.calls[call]["gateway"], count))
                    seen[host].append((sample, cpu))
            for host, bench in benches.items():
                print(_line(call, count, host, bench.row(seen[host])), flush=True)


def _line(call: str, clients: int, host: str, found: dict[str, Any]) -> str:
    parts = {name: used for name, used in found["cpu_ms_per_call"].items() if used}
    cpu = " + ".join(f"{used:.2f} {name}" for name, used in parts.items()) + f" = {sum(parts.values()):.2f}"
    latency = f"{found['p50_ms']:.1f} | {found['p99_ms']:.1f}"
    return (
        f"| {call} | {clients} | {host} | {found['per_second']:,.0f} | {latency} | {found['errors'] or 0} | {cpu} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("model")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    image = picture(read_manifest(Store(options.store).current(options.model)))
    with ExitStack() as stack:
        benches: dict[str, Bench] = {}
        for host in HOSTS:
            service, seconds = stack.enter_context(started(options.store, host))
            print(f"{host}: ready after {seconds:.1f} s", flush=True)
            benches[host] = Bench(service, calls(service, options.model, image), options.seconds)
            stack.callback(benches[host].close)
        compare(benches, options.clients, options.rounds)
        for host, bench in benches.items():
            memory = {name: mib for name, mib in bench.service.memory_mib().items() if mib}
            print(f"{host}: {memory} MiB, {sum(memory.values()):,.0f} in all")


if __name__ == "__main__":
    main()
