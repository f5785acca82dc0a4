"""Tensors on disk, readable for whom every other file of the process is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Writes a safetensors file, with the mode that the umask gives.

    safetensors writes to a temporary file that only its owner can read, and renames it: a bundle would be closed
    to every other user, the one that serves it included.
    """
    path.touch()
    mode = path.stat().st_mode
    save_file(dict(tensors), path)
    path.chmod(mode & 0o777)
