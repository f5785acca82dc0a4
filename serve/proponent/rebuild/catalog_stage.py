"""What a catalog holds of every example that needs its reading: id, label, source, what shows it; by chunks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from proponent.index.catalog import CatalogEntry
from proponent.index.searchable import RowScales
from proponent.rebuild.contents import Content, content_of
from proponent.rebuild.context import Compute, RebuildContext, Task
from proponent.rebuild.survey import Survey
from proponent.rebuild.training_set import READ_AT_ONCE

STAGE = "catalog"


@dataclass(frozen=True)
class CatalogTask(Task):
    """What is read of a chunk: ids, sources, texts and records, thumbnails one after the other as bytes, labels."""

    @override
    def prepare(self, context: RebuildContext) -> Compute:
        data = context.data

        def compute(positions: Sequence[int]) -> Mapping[str, Tensor]:
            contents: list[Content] = []
            classes: list[int] = []
            for start in range(0, len(positions), READ_AT_ONCE):
                raws, _, labels = data.items(positions[start : start + READ_AT_ONCE])
                contents += map(content_of, raws)
                classes += labels
            words = [
                [data.example_id(position), data.source(position), content.text, content.record]
                for position, content in zip(positions, contents, strict=True)
            ]
            return {
                "words": _bytes(json.dumps(words).encode()),
                "classes": torch.tensor(classes),
                "pictures": _bytes(b"".join(content.thumbnail for content in contents)),
                "ends": torch.tensor([len(content.thumbnail) for content in contents]).cumsum(0),
            }

        return compute


def catalog_entries(context: RebuildContext, scales: RowScales, found: Survey) -> Iterator[CatalogEntry]:
    """Entries of all examples, in order, from the chunks that are finished now."""
    predictions, influences = found.predictions.tolist(), scales.self_influence.tolist()
    row = 0
    for name in context.map(STAGE, CatalogTask(), context.shards(STAGE)):
        chunk = context.workspace.load(name)
        pictures, ends = chunk["pictures"].numpy().tobytes(), chunk["ends"].tolist()
        words, start = json.loads(chunk["words"].numpy().tobytes()), 0
        for (example_id, source, text, record), label, end in zip(
            words, chunk["classes"].tolist(), ends, strict=True
        ):
            yield CatalogEntry(
                row=row,
                example_id=example_id,
                class_id=label,
                predicted_class_id=predictions[row],
                self_influence=influences[row],
                source=source,
                thumbnail=pictures[start:end],
                text=text,
                record=record,
            )
            row, start = row + 1, end


def _bytes(content: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(content, dtype=np.uint8).copy())
