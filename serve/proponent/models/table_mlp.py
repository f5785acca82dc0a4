"""A multilayer perceptron on numbers and on embeddings of categories."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from proponent.datasets.tables import Table


class TableMLP(nn.Module):
    """Numbers ``[B, n]`` and categories ``[B, m]``, of one vocabulary, to logits ``[B, classes]``."""

    def __init__(self, table: str, classes: int = 2, width: int = 64, depth: int = 2, size: int = 4) -> None:
        """Build the model.

        Args:
            table: File that describes the columns, see `proponent.datasets.tables.fit_table`.
            classes: Number of classes.
            width: Units of each hidden layer.
            depth: Hidden layers.
            size: Numbers of each category's vector.
        """
        super().__init__()
        columns = Table.read(table)
        self.categories = nn.Embedding(columns.vocabulary, size)
        inputs = len(columns.numbers) + size * len(columns.categories)
        layers: list[nn.Module] = []
        for number in range(depth):
            layers += [nn.Linear(width if number else inputs, width), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(width, classes))

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.layers(torch.cat([numbers, self.categories(categories).flatten(1)], dim=1))
        return logits
