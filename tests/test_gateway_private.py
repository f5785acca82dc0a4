"""The private directory: closed to others, short enough for sockets, held while in use, removed when abandoned."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from proponent.errors import StorageError
from proponent.gateway.hosting.private import PREFIX, private_directory, sweep

HOLDER = """
import sys
from proponent.gateway.hosting.private import private_directory
with private_directory() as root:
    print(root, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory with a path that leaves room for sockets."""
    with tempfile.TemporaryDirectory(prefix="short-", dir="/tmp") as directory:
        yield Path(directory)


def test_a_directory_is_there_for_its_block_and_closed_to_others(place: Path, short: Path) -> None:
    tempfile.tempdir = str(short)
    with private_directory() as root:
        assert root.parent == short and root.is_dir()
        assert stat.S_IMODE(root.stat().st_mode) == 0o700
    assert not list(short.iterdir())


def test_a_long_tmpdir_is_left_for_a_short_one(place: Path) -> None:
    tempfile.tempdir = str(place / ("d" * 80))
    with private_directory() as root:
        assert root.parent == Path("/tmp")


def test_what_a_killed_gateway_left_is_removed_by_the_next_one(place: Path, short: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(short)}
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        root = Path(holder.stdout.readline().strip())
        assert sweep(short) == [] and root.is_dir()
        holder.kill()
        holder.wait()
    tempfile.tempdir = str(short)
    with private_directory() as new:
        assert list(short.iterdir()) == [new] != [root]


def test_only_what_is_a_gateways_own_is_swept(tmp_path: Path) -> None:
    mine = tmp_path / f"{PREFIX}results"
    mine.mkdir()
    (mine / "results.json").write_text("{}")
    (tmp_path / f"{PREFIX}file").write_text("")
    abandoned = tmp_path / f"{PREFIX}abcdefgh"
    abandoned.mkdir()
    (abandoned / "gateway").touch()
    (tmp_path / f"{PREFIX}link").symlink_to(mine)
    assert sweep(tmp_path) == [abandoned]
    assert (mine / "results.json").is_file() and not abandoned.exists()


def test_a_disk_without_room_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int, how: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(fcntl, "flock", full)
    before = set(Path("/tmp").glob(f"{PREFIX}*"))
    with pytest.raises(StorageError, match="TMPDIR") as caught, private_directory():
        pass
    assert "No space left" in caught.value.message and set(Path("/tmp").glob(f"{PREFIX}*")) <= before
