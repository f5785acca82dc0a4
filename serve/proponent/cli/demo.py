"""The demo: train on handwritten digits, texts or rows of a table, build the index, serve, ask by gRPC and by HTTP.

Everything is the real thing, run as users would run it: the CLI's own commands, a TorchServe worker, the
gateway, a generated gRPC client and a plain HTTP client.
"""

from __future__ import annotations

import argparse
import base64
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
from google.protobuf.json_format import MessageToDict
from rich.console import Console

from proponent.cli.demo_subjects import Subject, pictures, rows, texts
from proponent.cli.explain import highlights_of
from proponent.cli.terminal import draw_input, print_explanation
from proponent.client.requests import explain_request
from proponent.options import ExplainOptions, View
from proponent.v1 import explanation_pb2 as pb
from proponent.v1.explanation_pb2_grpc import ExplanationServiceStub


@dataclass(frozen=True)
class Addresses:
    """Where the gateway answers."""

    grpc: str
    http: str


def main(arguments: list[str] | None = None) -> int:
    """Runs the demo; with --once it stops after the answers, else at Ctrl-C."""
    options = parser().parse_args(arguments)
    console = Console(width=100 if not sys.stdout.isatty() else None)
    subject = chosen(options)
    console.print(f"data: {subject.data}", highlight=False)
    build(subject, options.runs or Path("runs") / subject.model, options.store, console)
    with serving(subject.model, options.store, console, fixed_ports=not options.once) as addresses:
        request = explain_request(subject.model, subject.held_out(), ExplainOptions(top_k=3, view=View.THUMBNAIL))
        ask_by_grpc(addresses.grpc, subject.noun, request, console)
        ask_by_http(addresses.http, request, console)
        if not options.once:
            keep_serving(addresses, console)
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line of ``scripts/demo``."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        "--text", action="store_true", help="texts: film reviews where there are any, else made-up ones"
    )
    kind.add_argument("--table", action="store_true", help="rows: the census where there is one, else made-up loans")
    parser.add_argument("--once", action="store_true", help="stop after the answers")
    parser.add_argument("--data-root", help="folder of the data sets; default: PROPONENT_DATA")
    parser.add_argument("--runs", type=Path, help="directory of the trained model; default: runs/MODEL")
    parser.add_argument("--store", type=Path, default=Path("model_store"), help="directory of bundles")
    return parser


def chosen(options: argparse.Namespace) -> Subject:
    """What the command line asks for."""
    if options.text:
        return texts(options.data_root)
    return rows(options.data_root) if options.table else pictures()


def build(subject: Subject, runs: Path, store: Path, console: Console) -> None:
    """Trains a model and builds its bundle, by the command line's own commands."""
    step(console, "train", f"proponent train {subject.model} --out {runs} {subject.training}".rstrip())
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
def serving(model: str, store: Path, console: Console, *, fixed_ports: bool) -> Iterator[Addresses]:
    """A gateway for the length of a block; it stops, and leaves no process, when the block ends."""
    ports = ("127.0.0.1:8500", "127.0.0.1:8080") if fixed_ports else ("127.0.0.1:0", "127.0.0.1:0")
    command = [sys.executable, "-m", "proponent.cli", "serve", str(store), "--model", model]
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


def ask_by_grpc(address: str, noun: str, request: pb.ExplainRequest, console: Console) -> None:
    """One typed call, printed as tables."""
    console.print(f"\n{noun} that the model has not seen, by gRPC:")
    console.print(draw_input(request, colour=console.color_system is not None))
    with grpc.insecure_channel(address) as channel:
        stub = ExplanationServiceStub(channel)  # type: ignore[no-untyped-call]
        reply = stub.Explain(request, timeout=60)
        weigh = bool(request.text) and any(result.proponents for result in reply.results)
        words = stub.HighlightExamples(highlights_of(request, reply), timeout=60) if weigh else None
    print_explanation(console, reply, request, words=words)


def ask_by_http(address: str, request: pb.ExplainRequest, console: Console) -> None:
    """One call of plain HTTP, printed as one line for each measure."""
    url = f"{address}/v1/models/{request.model}:explain"
    console.print(f"\nThe same by HTTP, POST {url}", highlight=False)
    body = json.dumps({"instances": [{**http_input(request), "top_k": 3}]}).encode()
    with urllib.request.urlopen(
        urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"}), timeout=60
    ) as reply:
        answer = json.load(reply)
    console.print(f"prediction: {answer['predictions'][0]['label']}")
    for result in answer["explanations"][0]["results"]:
        named = ", ".join(f"{i['example_id']} {i['score']:+.4g}" for i in result["proponents"])
        console.print(f"  {result['measure']}: {named}", highlight=False)


def http_input(request: pb.ExplainRequest) -> dict[str, object]:
    """The input of a request as JSON has it."""
    if request.encoded_image:
        return {"image": {"b64": base64.b64encode(request.encoded_image).decode()}}
    return {"text": request.text} if request.text else {"record": MessageToDict(request.record)}


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
