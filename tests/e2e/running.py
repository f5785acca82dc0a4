"""A gateway as users start it: a subprocess with its own TorchServe, watched from outside."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import grpc
import httpx
import psutil

from proponent.v1.explanation_pb2_grpc import ExplanationServiceStub

START_S = 240.0
WORKERS = ("model_service_worker", "proponent.worker.process")


def cli(*arguments: str) -> None:
    """Runs a command of the command line, which must succeed."""
    done = subprocess.run([sys.executable, "-m", "proponent.cli", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RunningGateway:
    def __init__(self, store: Path, log: Path, *options: str, **environment: str) -> None:
        self.grpc_address = f"127.0.0.1:{free_port()}"
        self.http_url = f"http://127.0.0.1:{free_port()}"
        self.store = store
        self.log = log
        self.temporary = Path(environment.get("TMPDIR") or tempfile.mkdtemp(prefix="gateway-"))
        command = [sys.executable, "-m", "proponent.cli", "serve", str(store), "--grpc-address", self.grpc_address]
        # No balancer is waited for where no test asks for it: the last of two options counts.
        command += ["--http-address", self.http_url.removeprefix("http://"), "--drain-delay", "0", *options]
        with log.open("wb") as out:
            inherited = {**os.environ, "TMPDIR": str(self.temporary)}
            self.process = subprocess.Popen(command, stdout=out, stderr=out, env=inherited | environment)
        self.http = httpx.Client(base_url=self.http_url, timeout=60, trust_env=False)
        self.channel = grpc.insecure_channel(self.grpc_address)
        self.rpc = ExplanationServiceStub(self.channel)

    def get(self, path: str) -> httpx.Response | None:
        try:
            return self.http.get(path)
        except httpx.TransportError:
            return None

    def wait_ready(self) -> None:
        self.wait_for(lambda: (reply := self.get("/readyz")) is not None and reply.status_code == 200)

    def wait_for(self, condition: object, timeout_s: float = START_S) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():  # type: ignore[operator]
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.2)

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def part(self, name: str) -> psutil.Process:
        """The first process below whose executable is Java or whose script is a worker, by a word of its command."""
        found = [p for p in self.descendants() if any(name in argument for argument in p.cmdline())]
        return next(p for p in found if "watchdog.py" not in " ".join(p.cmdline()))

    def worker(self, *, explains: bool = True) -> psutil.Process:
        """The worker that explains, or that only predicts: the first stands back for the second."""
        return next(p for p in self.workers() if (p.nice() > 0) == explains)

    def workers(self) -> list[psutil.Process]:
        """All workers, whatever hosts them."""
        found = []
        for process in self.descendants():
            with suppress(psutil.NoSuchProcess):  # it may end, or be a zombie, while it is looked at
                command = " ".join(process.cmdline())
                if "watchdog.py" not in command and any(word in command for word in WORKERS):
                    found.append(process)
        return found

    def stop(self) -> None:
        """SIGTERM, exit status 0, no process and no file left."""
        family = self.descendants() if self.process.poll() is None else []
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(timeout=60) == 0, self.log.read_text()
        self.assert_nothing_left(family)

    def kill(self) -> None:
        """SIGKILL; the family must end all the same."""
        family = self.descendants()
        assert len(family) >= 3
        self.process.kill()
        self.process.wait()
        self.assert_nothing_left(family)

    def assert_nothing_left(self, family: list[psutil.Process]) -> None:
        assert not survivors(family)
        assert not list(self.temporary.iterdir())

    def close(self) -> None:
        self.http.close()
        self.channel.close()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.temporary, ignore_errors=True)


def survivors(family: list[psutil.Process]) -> list[psutil.Process]:
    _, alive = psutil.wait_procs(family, timeout=10)
    return alive
