"""Tensors on disk, readable for whom every other file of the process is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Writes a safetensors file, with the mode that the umask gives; tied tensors are written under each name.

    safetensors writes to a temporary file that only its owner can read, and renames it: a bundle would be closed
    to every other user, the one that serves it included.
    """
    path.touch()
    mode = path.stat().st_mode
    save_file(apart(tensors), path)
    path.chmod(mode & 0o777)


def apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Dense tensors on the CPU, no two of which share memory, which the format refuses."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        place = value.untyped_storage().data_ptr()
        found[name] = value.clone() if place in seen else value
        seen.add(place)
    return found
