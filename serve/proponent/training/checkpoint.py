"""Checkpoints of a training: one that is killed goes on after its last whole epoch, and ends as it would have."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from proponent.attribution.inputs import Inputs, content


def beginning(model: nn.Module, data: tuple[Inputs, Tensor], recipe: Mapping[str, object]) -> str:
    """SHA-256 of what a training starts from: initial weights, examples and labels, and the recipe."""
    digest = hashlib.sha256(repr(sorted(recipe.items())).encode())
    inputs, labels = data
    for tensor in (*([inputs] if isinstance(inputs, Tensor) else inputs), labels, *model.state_dict().values()):
        digest.update(content(tensor.detach() if isinstance(tensor, Tensor) else tensor))
    return digest.hexdigest()


class Checkpoint:
    """What goes on changing in a training, as a file; without a path nothing is kept.

    Args:
        path: The file; stays at the end of the training.
        start: See `beginning`; a file of another beginning, or a damaged one, is left aside, and replaced at the next
            save.
        model, stepper, rates, generator: Restored in place by ``load``, as are torch's own random generators.
    """

    def __init__(
        self,
        path: Path | None,
        start: str,
        model: nn.Module,
        stepper: Optimizer,
        rates: LambdaLR,
        generator: torch.Generator,
    ) -> None:
        self._path = path
        self._start = start
        self._parts: dict[str, Any] = {"model": model, "stepper": stepper, "rates": rates}
        self._generator = generator

    def load(self) -> list[dict[str, float]]:
        """The records of the epochs that are done, after which all parts are as they were; empty without any."""
        state = self._read()
        if state.get("start") != self._start:
            return []
        for name, part in self._parts.items():
            part.load_state_dict(state[name])
        self._generator.set_state(state["generator"])
        torch.set_rng_state(state["cpu"])
        torch.cuda.set_rng_state_all(state["cuda"])
        history: list[dict[str, float]] = state["history"]
        return history

    def _read(self) -> dict[str, Any]:
        """What the file holds; nothing without one, or where it is damaged."""
        if self._path is None or not self._path.exists():
            return {}
        try:
            state = torch.load(self._path, map_location="cpu", weights_only=True)
        except Exception:  # what torch raises depends on where the file ends
            return {}
        return state if isinstance(state, dict) else {}

    def save(self, history: list[dict[str, float]]) -> None:
        """Writes the file under another name first: a file of that name is whole."""
        if self._path is None:
            return
        state = {name: part.state_dict() for name, part in self._parts.items()}
        random = {
            "generator": self._generator.get_state(),
            "cpu": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_suffix(".part")
        torch.save({**state, **random, "start": self._start, "history": history}, temporary)
        os.replace(temporary, self._path)
