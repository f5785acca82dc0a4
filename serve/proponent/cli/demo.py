"""The demo: train on handwritten digits, build the index, serve, and ask by gRPC and by HTTP.

Everything is the real thing, run as users would run it: the CLI's own commands, a TorchServe worker, the
gateway, a generated gRPC client and a plain HTTP client.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from rich.console import Console

from proponent.cli.terminal import draw, print_explanation
from proponent.v1 import explanation_pb2 as pb
from proponent.v1.explanation_pb2_grpc import ExplanationServiceStub

MODEL = "digits"


@dataclass(frozen=True)
class Addresses:
    """Where the gateway answers."""

    grpc: str
    http: str


def main(arguments: list[str] | None = None) -> int:
    """Runs the demo; with --once it stops after the answers, else at Ctrl-C."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("--once", action="store_true", help="stop after the answers")
    parser.add_argument("--runs", type=Path, default=Path("runs/digits"), help="directory of the trained model")
    parser.add_argument("--store", type=Path, default=Path("model_store"), help="directory of bundles")
    options = parser.parse_args(arguments)
    console = Console(width=100 if not sys.stdout.isatty() else None)
    build(options.runs, options.store, console)
    with serving(options.store, console, fixed_ports=not options.once) as addresses:
        image = held_out_digit()
        ask_by_grpc(addresses.grpc, image, console)
        ask_by_http(addresses.http, image, console)
        if not options.once:
            keep_serving(addresses, console)
    return 0


def build(runs: Path, store: Path, console: Console) -> None:
    """Trains the digits model and builds its bundle, by the command line's own commands."""
    step(console, "train", f"proponent train digits --out {runs}")
    step(console, "rebuild", f"proponent rebuild {runs} --store {store} --quiet")


def step(console: Console, name: str, command: str) -> None:
    """Runs one command of the CLI and shows it."""
    console.print(f"[bold]$ {command}[/bold]", highlight=False)
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "proponent.cli", *command.split()[1:]], check=False)
    if done.returncode:
        raise SystemExit(f"demo: {name} failed with exit code {done.returncode}")
    console.print(f"  ({time.perf_counter() - start:.1f} s)")


@contextmanager
def serving(store: Path, console: Console, *, fixed_ports: bool) -> Iterator[Addresses]:
    """A gateway for the length of a block; it stops, and leaves no process, when the block ends."""
    ports = ("127.0.0.1:8500", "127.0.0.1:8080") if fixed_ports else ("127.0.0.1:0", "127.0.0.1:0")
    command = [sys.executable, "-m", "proponent.cli", "serve", str(store), "--model", MODEL]
    disclosed = ["--allow-examples", "--allow-thumbnails", "--allow-samples"]
    command += ["--grpc-address", ports[0], "--http-address", ports[1], "--drain-delay", "0", *disclosed]
    console.print(f"[bold]$ proponent serve {store} {' '.join(disclosed)}[/bold]", highlight=False)
    gateway = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        yield ready_addresses(gateway)
    finally:
        gateway.terminate()  # not SIGINT, which what was started in the background ignores
        gateway.wait(timeout=60)


def ready_addresses(gateway: subprocess.Popen[str]) -> Addresses:
    """Waits for the gateway's line that says it is ready."""
    assert gateway.stdout is not None
    line = gateway.stdout.readline()
    if not line:
        raise SystemExit(f"demo: the gateway ended with exit code {gateway.wait()}")
    found = dict(part.split("=", 1) for part in line.split()[1:])
    return Addresses(found["grpc"], found["http"])


def held_out_digit() -> bytes:
    """A digit that the model has not seen, as a PNG file."""
    from proponent.datasets import digits

    image, _ = digits.test()[0]
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def ask_by_grpc(address: str, image: bytes, console: Console) -> None:
    """One typed call, printed as tables."""
    console.print("\nA digit that the model has not seen, by gRPC:")
    console.print(draw(image, colour=console.color_system is not None))
    with grpc.insecure_channel(address) as channel:
        request = pb.ExplainRequest(model=MODEL, encoded_image=image, top_k=3, view=pb.VIEW_THUMBNAIL)
        stub = ExplanationServiceStub(channel)  # type: ignore[no-untyped-call]
        print_explanation(console, stub.Explain(request, timeout=60))


def ask_by_http(address: str, image: bytes, console: Console) -> None:
    """One call of plain HTTP, printed as one line for each measure."""
    body = {"instances": [{"image": {"b64": base64.b64encode(image).decode()}, "top_k": 3}]}
    console.print(f"\nThe same by HTTP, POST {address}/v1/models/{MODEL}:explain", highlight=False)
    request = urllib.request.Request(
        f"{address}/v1/models/{MODEL}:explain",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        answer = json.load(reply)
    console.print(f"prediction: {answer['predictions'][0]['label']}")
    for result in answer["explanations"][0]["results"]:
        named = ", ".join(f"{i['example_id']} {i['score']:+.4g}" for i in result["proponents"])
        console.print(f"  {result['measure']}: {named}", highlight=False)


def keep_serving(addresses: Addresses, console: Console) -> None:
    """Serves until Ctrl-C."""
    console.print(f"\nlook: {addresses.http}/", highlight=False)
    console.print(f"serving: gRPC {addresses.grpc}, HTTP {addresses.http}/docs (Ctrl-C stops)", highlight=False)
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        console.print("stopping")


if __name__ == "__main__":
    sys.exit(main())
