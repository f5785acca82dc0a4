"""A cluster for tests, rebuilds on it, and data sets that hold, kill or fail the workers that read them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, TypeVar

import tiny
from proponent.index.faults import TRACE

T = TypeVar("T")
NODES = Path(__file__).with_name("ray_nodes.py")

PATIENCE_S = 600.0
CHUNK = 8
KEEPING_NOTHING = str(1 << 60)
"""``SHARE`` of a rebuild whose workers read every example again in each stage."""
DRIVER = f"""
import os
from proponent.rebuild import batching
from proponent.rebuild.cluster import pool, site
from proponent.cli.main import main
batching.CHUNK = {CHUNK}
for name in ("HANG_S", "HANG_TIMES", "PATIENCE_S"):
    setattr(pool, name, float(os.environ.get(name, getattr(pool, name))))
site.SHARE = int(os.environ.get("SHARE", site.SHARE))
main()
"""
WATCHED = """

import errno
import os
import sys
import time


def full(*paths):
    # What renames a file on a disk that is full; root, who runs tests, may write everywhere else.
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def is_time(file):
    # Once so many chunks were read by all workers as the file says.
    try:
        return open(os.environ["{TRACE}"]).read().count("saved:reading-") >= int(file.read_text() or 0)
    except FileNotFoundError:
        return False


class Watched(Images):
    # Does to a worker that reads an example what a file of its number says.

    def __getitem__(self, position):
        if sys.argv[0].endswith("default_worker.py"):
            if (HERE / f"die-{position}").exists():
                os._exit(1)
            if (HERE / f"fail-{position}").exists() or (HERE / f"broken-{os.getppid()}").exists():
                raise RuntimeError("the disk is on fire")
            if (HERE / f"full-{position}").exists():
                os.replace = full
            while is_time(HERE / f"hold-{position}"):
                (HERE / f"held-{position}-{os.getpid()}").touch()
                time.sleep(0.05)
            if is_time(HERE / f"change-{position}"):
                return super().__getitem__(position + 1)
        return super().__getitem__(position)
"""


def until(what: Callable[[], T]) -> T:
    """What comes to be true in the end."""
    end = time.monotonic() + PATIENCE_S
    while not (found := what()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return found


class Nodes:
    """The processes of `ray_nodes`: a head, and nodes, by the ids of their processes.

    Args:
        directory: For the trace.
        count: Of the nodes.
        processors: Of each; a rebuild's worker takes one.
        environment: Of all processes, beside this one's.

    Attributes:
        trace: Names of all stages that any process has saved since it was emptied.
    """

    def __init__(self, directory: Path, count: int, processors: int = 1, **environment: str) -> None:
        self.trace = directory / "trace"
        self.environment = {
            **os.environ,
            **environment,
            TRACE: str(self.trace),
            "OMP_NUM_THREADS": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_gcs_server_port_wait_time_s": "300",
            "RAY_worker_register_timeout_seconds": "600",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # what makes Ray take a loopback address as it is
        }
        self._process = subprocess.Popen(
            [sys.executable, str(NODES), str(count), str(processors)],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.address = self._line()
        self.pids = [int(self._line()) for _ in range(count)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()

    def add(self) -> int:
        """Adds a node; returns the id of its process."""
        self.pids.append(int(self._ask("add")))
        return self.pids[-1]

    def remove(self, pid: int) -> None:
        """Ends a node and all that runs on it at once."""
        self.pids.remove(pid)
        self._ask(f"remove {pid}")

    def workers(self) -> list[int]:
        """Process ids of rebuilds' workers."""
        return self.actors("Worker")

    def actors(self, kind: str) -> list[int]:
        """Process ids of all actors of a class."""
        pids = map(int, filter(str.isdigit, os.listdir("/proc")))
        return [pid for pid in pids if self._is_actor(pid, f"ray::{kind}".encode())]

    def _is_actor(self, pid: int, title: bytes) -> bool:
        try:
            return title in Path(f"/proc/{pid}/cmdline").read_bytes() and parent(pid) in self.pids
        except OSError:
            return False

    def _ask(self, command: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()
        return self._line()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        assert line, "the cluster has ended"
        return line


def parent(pid: int) -> int:
    """Id of a process's parent."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def watched(root: Path, **keys: Any) -> Path:
    """A project whose workers do what files beside it say."""
    path = tiny.project(root, dataset="Watched", count=40, **keys)
    module = next(root.glob("toy_module_*.py"))
    module.write_text(module.read_text() + WATCHED.replace("{TRACE}", TRACE))
    return path


class Rebuild:
    """A rebuild of a project as a process of its own, the driver; ``environment`` changes how long it waits."""

    def __init__(self, path: Path, store: Path, nodes: Nodes, *options: str, **environment: str) -> None:
        command = ["rebuild", str(path), "--store", str(store), "--quiet", "--ray", nodes.address, *options]
        self._root = path.parent
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, *command],
            env=nodes.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def held(self, position: int, besides: int = 0) -> int:
        """Id of the worker that has read an example whose file holds it there, and is not ``besides``."""

        def found() -> int:
            assert self.process.poll() is None, self.process.communicate()
            pids = {int(path.name.rpartition("-")[2]) for path in self._root.glob(f"held-{position}-*")}
            return next(iter(pids - {besides}), 0)

        return until(found)

    def ended(self) -> tuple[int, str]:
        """Exit code, and what it said on standard error."""
        _, said = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, said
