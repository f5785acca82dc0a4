"""A tiny classifier of records as a user brings it: numbers, categories, a flag, missing values."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import tiny
import tiny_text

_numbers = itertools.count()

MODULE = """
import torch
from torch import nn

KINDS = ["oak", "elm", "fir"]


class Columns:
    columns = [
        {"name": "height", "type": "number"},
        {"name": "kind", "type": "category", "categories": KINDS, "optional": True},
        {"name": "old", "type": "flag"},
    ]

    def __call__(self, record):
        kind = record.get("kind")
        return {
            "numbers": torch.tensor([record["height"], float(record["old"])], dtype=torch.float64),
            "kind": torch.tensor(0 if kind is None else KINDS.index(kind) + 1, dtype=torch.int32),
        }


TRANSFORM = Columns()


class Trees:
    def __len__(self):
        return 30

    def __getitem__(self, position):
        kind = [*KINDS, None][position % 4]
        record = {"height": position % 7 - 3.0, "kind": kind, "old": position % 3 == 0}
        return record, int(record["height"] + record["old"] > 0)


def trees():
    return Trees()


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.kinds, self.hidden, self.head = nn.Embedding(4, 2), nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, numbers, kind):
        return {"logits": self.head(self.hidden(torch.cat([numbers, self.kinds(kind)], dim=1)).tanh())}


def model():
    return Model()
"""


def project(root: Path, **keys: Any) -> Path:
    """Writes the folder with a model at its random start and returns the spec's path."""
    root.mkdir(parents=True, exist_ok=True)
    name = f"table_module_{next(_numbers)}"
    (root / f"{name}.py").write_text(MODULE)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weights = tiny_text.loaded(root, name).model().state_dict()
    save_file(weights, root / "weights.safetensors")
    content = {
        "name": "trees",
        "model": {"factory": f"{name}:model"},
        "weights": "weights.safetensors",
        "dataset": {"factory": f"{name}:trees"},
        "held_out": {"factory": f"{name}:trees"},
        "samples": 3,
        "transform": {"factory": f"{name}:TRANSFORM"},
        "weight_decay": 0.01,
        "class_names": ["small", "large"],
        "expected_accuracy": 0.0,
        "curvature": {"kind": "ekfac"},
        **keys,
    }
    return tiny.write(root, content)
