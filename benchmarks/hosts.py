"""TorchServe and plain processes as hosts of the same workers: two gateways on one store, measured in turn.

Of each: how long its start takes, alone; throughput and latency by gRPC; processor time of a call by process; memory
that processes share with nobody.

Run: ``python benchmarks/hosts.py STORE MODEL [--clients 1 8 32]``. Writes JSON.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from commands import RESULTS, write
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


def compare(benches: dict[str, Bench], clients: list[int], rounds: int) -> Iterator[dict[str, Any]]:
    """Each call by each number of clients, on both hosts in turn."""
    for call in ("Predict", "Explain"):
        for count in clients:
            seen: dict[str, list[tuple[Sample, dict[str, float]]]] = {host: [] for host in benches}
            for _ in range(rounds):
                for host, bench in benches.items():
                    [sample], cpu = bench.measure((bench.calls[call]["gateway"], count))
                    seen[host].append((sample, cpu))
            rows = {host: bench.row(seen[host]) for host, bench in benches.items()}
            ratio = rows["processes"]["per_second"] / rows["torchserve"]["per_second"]
            yield {"call": call, "clients": count, "ratio": round(ratio, 2), **rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("model")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "hosts.json")
    options = parser.parse_args()
    image = picture(read_manifest(Store(options.store).current(options.model)))
    with ExitStack() as stack:
        benches: dict[str, Bench] = {}
        ready = {}
        for host in HOSTS:
            service, ready[host] = stack.enter_context(started(options.store, host))
            benches[host] = Bench(service, calls(service, options.model, image), options.seconds)
            stack.callback(benches[host].close)
        rows = list(compare(benches, options.clients, options.rounds))
        memory = {host: bench.service.memory_mib() for host, bench in benches.items()}
    setting = {"seconds": options.seconds, "rounds": options.rounds, "ready_s": ready, "memory_mib": memory}
    write(options.out, {**setting, "results": rows})
    print(options.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
