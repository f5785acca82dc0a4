"""The watchdog: what it runs ends with it, with the gateway, or when told to; the directory goes with the gateway."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from proponent.gateway.hosting import watchdog

# A child with a child of its own, as Java has workers; both outlive what they are not told of.
FAMILY = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'input()'], stdin=-1).wait()"


class Watched:
    """A watchdog with a command."""

    def __init__(self, directory: Path) -> None:
        command = [sys.executable, "-I", "-S", str(watchdog.__file__), str(directory), sys.executable, "-c", FAMILY]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdin is not None and self.process.stdout is not None
        self.stdin = self.process.stdin
        self.child = psutil.Process(int(self.process.stdout.readline()))

    def ended(self) -> bool:
        return not psutil.wait_procs([self.child], timeout=10)[1]


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    (tmp_path / "private").mkdir()
    found = Watched(tmp_path / "private")
    with found.process:
        try:
            yield found
        finally:
            found.process.kill()


def test_it_ends_its_child_when_told(watched: Watched, tmp_path: Path) -> None:
    assert watched.child.is_running()
    watched.stdin.write(b"k")
    watched.stdin.flush()
    assert watched.process.wait(10) == 9 and watched.ended()
    assert (tmp_path / "private").is_dir()


def test_the_gateways_end_ends_everything(watched: Watched, tmp_path: Path) -> None:
    family = [watched.child, *watched.child.children(recursive=True)]
    watched.stdin.close()
    assert watched.process.wait(10) == 9
    assert not psutil.wait_procs(family, timeout=10)[1]
    assert not (tmp_path / "private").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no parent-death signal")
def test_its_own_sudden_end_ends_its_child(watched: Watched) -> None:
    watched.process.kill()
    watched.process.wait()
    assert watched.ended()
