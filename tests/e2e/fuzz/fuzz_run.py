"""A run: a real service, so many inputs, and what they found. `scripts/fuzz --help` says how to ask for one."""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import psutil
import yaml
from fuzz_inputs import FuzzInput, fuzz_input
from fuzz_memory import MemoryWatch
from fuzz_messages import MODEL, NAMED, Words
from fuzz_openapi import send_described
from fuzz_send import Sender, send_all
from running import RunningGateway, cli

import tiny
import tiny_text
from proponent.v1 import explanation_pb2 as pb

DESCRIBED = 0.02
"""Share of the inputs that are made of the OpenAPI description: each costs some thirty times what others do."""
_READINGS = 200
_WARM = 20_000
"""Inputs below which all of a run is warm-up: each way to make the largest reply must have come up."""
JAVA = "TorchServe's Java"
PICTURES = Words()
TEXTS = Words(model="words", inputs=({"text": "a good film"}, {"tensors": NAMED}))
_OPTIONS = ("--allow-examples", "--allow-thumbnails", "--allow-samples", "--idle-timeout", "2")


@dataclass
class Findings:
    """What was found, kept in a folder as it comes, one file each.

    Attributes:
        folder: Where; None keeps them here alone.
        found: Each as a text that says how to see it again, and what was wrong.
    """

    folder: Path | None = None
    found: list[str] = field(default_factory=list)

    def input(self, given: FuzzInput, fault: str) -> None:
        """Of an input that has a number."""
        self._keep(f"{given.kind} {given.method} --seed {given.seed} --replay {given.number}: {fault}")
        if self.folder is not None:
            text = json.dumps({**given.record(), "fault": fault})
            (self.folder / f"{given.seed}-{given.number}.json").write_text(text)

    def request(self, command: str, fault: str) -> None:
        """Of a request of HTTP."""
        self._keep(f"{command}\n  {fault}")
        if self.folder is not None:
            (self.folder / f"http-{len(self.found)}.txt").write_text(f"{command}\n{fault}\n")

    def service(self, fault: str) -> None:
        """Of the service after a run."""
        self._keep(fault)

    def _keep(self, text: str) -> None:
        self.found.append(text)
        print(f"FOUND {text:.1500}", flush=True)


def known_words(service: RunningGateway, words: Words) -> Words:
    """What a service knows, asked of itself."""
    model = words.model
    examples = service.rpc.ListExamples(pb.ListExamplesRequest(model=model, page_size=20))
    samples = service.rpc.ListSamples(pb.ListSamplesRequest(model=model, page_size=5))
    bundles = service.rpc.ListBundles(pb.ListBundlesRequest(model=model))
    return replace(
        words,
        examples=[each.example_id for each in examples.examples],
        samples=[each.sample_id for each in samples.samples],
        bundles=[each.digest for each in bundles.bundles],
        tokens=[examples.next_page_token, samples.next_page_token],
    )


def processes_of(service: RunningGateway) -> dict[str, psutil.Process]:
    """The processes whose memory and lives are watched."""
    return {
        "gateway": psutil.Process(service.process.pid),
        "worker that explains": service.worker(),
        "worker that predicts": service.worker(explains=False),
        JAVA: service.part("java"),
    }


def run(
    service: RunningGateway,
    numbers: Iterable[int],
    seed: int,
    described: int,
    findings: Findings,
    step: int = 1,
    words: Words = PICTURES,
) -> MemoryWatch:
    """Sends inputs and then requests that the description allows; looks whether the service is as it was.

    Args:
        service: A service of one model.
        numbers: Of the inputs.
        seed: Of both.
        described: How many such requests.
        findings: Takes what is found.
        step: Inputs between two readings of memory.
        words: The model, and what it takes.
    """
    words, memory = known_words(service, words), MemoryWatch(processes_of(service))
    expected = _answer(service, words)

    def progress(_: int) -> None:
        memory.answered += 1
        if memory.answered % step == 0:
            memory.read()

    async def send() -> None:
        host, port = service.http_url.removeprefix("http://").split(":")
        sender = Sender(service.grpc_address, (host, int(port)))
        try:
            inputs = (fuzz_input(seed, number, words) for number in numbers)
            await send_all(sender, inputs, findings.input, progress)
        finally:
            await sender.close()

    asyncio.run(send())
    if described:
        send_described(service.http_url, described, seed, words, findings.request, progress)
    check_alive(service, memory, findings)
    if (found := _answer(service, words)) != expected:
        findings.service(f"a good input is of class {found}, expected {expected}")
    return memory


def _answer(service: RunningGateway, words: Words) -> int:
    asked = pb.ExplainRequest(model=words.model, top_k=1, **words.inputs[0])
    return int(service.rpc.Explain(asked, timeout=30).prediction.class_id)


def check_alive(service: RunningGateway, memory: MemoryWatch, findings: Findings) -> None:
    """The same processes run; nothing went wrong in silence."""
    for name in memory.ended():
        findings.service(f"{name} ended")
    traces = service.log.read_text(errors="replace").count("Traceback (most recent call last)")
    if traces:
        findings.service(f"{traces} tracebacks in the log {service.log}")


def main() -> int:
    """Runs what the command line asks for; returns 1 where anything was found."""
    arguments = _arguments()
    folder = arguments.failures
    folder.mkdir(parents=True, exist_ok=True)
    findings = Findings(folder)
    seed = random.SystemRandom().randrange(1 << 32) if arguments.seed is None else arguments.seed
    described = 0 if arguments.replay else int(DESCRIBED * arguments.inputs)
    numbers = arguments.replay or range(arguments.inputs - described)
    print(f"seed {seed}, {len(numbers)} inputs and {described} requests by the description", flush=True)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as root:
        store = arguments.store or (_text_store if arguments.text else _store)(Path(root))
        service = RunningGateway(store, folder / "gateway.log", *_OPTIONS)
        try:
            service.wait_ready()
            started = time.monotonic()
            limited = takewhile(lambda _: time.monotonic() - started < arguments.seconds, numbers)
            step = max(1, arguments.inputs // _READINGS)
            words = TEXTS if arguments.text else PICTURES
            memory = run(service, limited, seed, described, findings, step, words)
            print(f"{memory.answered} inputs in {time.monotonic() - started:.0f} s", flush=True)
            if not arguments.replay:
                _tell_memory(memory, findings)
            service.stop()
        finally:
            service.close()
    print(f"{len(findings.found)} findings; they and the log are in {folder}")
    return 1 if findings.found else 0


def _tell_memory(memory: MemoryWatch, findings: Findings) -> None:
    """Judges it where the run is long enough; Java takes the heap that it was given."""
    for trend in memory.trends():
        print(trend)
        if memory.answered >= _WARM and trend.name != JAVA and not trend.flat:
            findings.service(f"memory is not flat: {trend}")


def _store(root: Path) -> Path:
    cli("train", MODEL, "--out", str(root / "model"))
    cli("rebuild", str(root / "model"), "--store", str(root / "store"), "--quiet")
    return root / "store"


def _text_store(root: Path) -> Path:
    spec = tiny_text.project(root / "model", samples=5)
    dataset = yaml.safe_load(spec.read_text())["dataset"]
    tiny.change(spec, held_out={**dataset, "kwargs": {"start": 100}})
    cli("rebuild", str(spec.parent), "--store", str(root / "store"), "--quiet")
    return root / "store"


def _arguments() -> Any:
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description="Sends a real service what nobody should send.")
    parser.add_argument("--inputs", type=int, default=10_000, help="how many (default: 10000)")
    parser.add_argument("--seed", type=int, help="of a run that is to be made again; default: a new one, printed")
    parser.add_argument("--replay", type=int, nargs="+", metavar="NUMBER", help="only these inputs of the seed's run")
    parser.add_argument("--seconds", type=float, default=math.inf, help="send no further numbered input after these")
    parser.add_argument("--text", action="store_true", help="on a model of texts instead of one of pictures")
    parser.add_argument("--store", type=Path, help="with the model digits (or words); default: it is made")
    parser.add_argument("--failures", type=Path, default=Path("fuzz-failures"), help="folder for what is found")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
