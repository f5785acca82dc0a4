"""Ends TorchServe with the gateway: whatever happens to that or to this watchdog, Java and its workers end with it.

Run as a script with the standard library alone: ``watchdog.py DIRECTORY COMMAND...`` starts the command in a
session of its own and prints its process group. Commands come as single bytes on standard input: ``t`` asks
the child to end, ``k`` kills its whole group. End of input means that the gateway died: the group is killed
and the directory removed. Where the watchdog is killed as well, the system kills Java (on Linux), a worker ends when
Java no longer listens to it, and the next gateway removes the directory.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from functools import partial

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> int:
    """Watches the command until it ends; returns its exit status."""
    directory, *command = arguments
    wake = _wake_on_child()
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        start_new_session=True,
        preexec_fn=partial(_die_with, os.getpid()) if sys.platform == "linux" else None,
    )
    print(child.pid, flush=True)
    orphaned = _watch(child, wake)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    status = child.wait()
    if orphaned:
        shutil.rmtree(directory, ignore_errors=True)
    return abs(status)


def _die_with(parent: int) -> None:
    """In the child, before it becomes Java: its end is tied to that of the watchdog, which may be over already."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def _wake_on_child() -> socket.socket:
    """A socket that becomes readable when the child ends; other signals are survived."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    return reader


def _watch(child: subprocess.Popen[bytes], wake: socket.socket) -> bool:
    """Returns when the child has ended or must be killed; True when the gateway is gone."""
    while child.poll() is None:
        readable, _, _ = select.select([0, wake.fileno()], [], [])
        if wake.fileno() in readable:
            wake.recv(4096)
        if 0 not in readable:
            continue
        command = os.read(0, 1)
        if command == b"t":
            child.terminate()
        else:
            return command == b""
    return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
