"""The Stanford Sentiment Treebank (Socher et al. 2013), binary: sentences of film reviews, ``text<TAB>label``."""

from __future__ import annotations

from pathlib import Path

from proponent.datasets.examples import Examples
from proponent.datasets.location import data_file
from proponent.errors import InvalidInputError

CLASS_NAMES = ["negative", "positive"]


def train(root: str | None = None, limit: int | None = None) -> Examples[str]:
    """The 6,920 training sentences, or the first ``limit``; ids ``sst2-train-00012``.

    Raises:
        NotFoundError: If the file is missing; ``root=None`` means ``PROPONENT_DATA``.
    """
    return _load(root, "train", limit)


def dev(root: str | None = None, limit: int | None = None) -> Examples[str]:
    """The 872 sentences of the development set, which other people's figures are of, or the first ``limit``."""
    return _load(root, "dev", limit)


def test(root: str | None = None, limit: int | None = None) -> Examples[str]:
    """The 1,821 test sentences, or the first ``limit``."""
    return _load(root, "test", limit)


def _load(root: str | None, split: str, limit: int | None) -> Examples[str]:
    path = data_file(root, f"sst2/{split}.tsv")
    pairs = [_parsed(path, number, line) for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1)]
    count = len(pairs)
    whole = Examples(
        inputs=[text for text, _ in pairs],
        labels=[label for _, label in pairs],
        class_names=CLASS_NAMES,
        ids=[f"sst2-{split}-{number:05d}" for number in range(count)],
        sources=[f"{path}#{number + 1}" for number in range(count)],
    )
    return whole if limit is None else whole.take(range(min(limit, count)))


def _parsed(path: Path, number: int, line: str) -> tuple[str, int]:
    text, _, label = line.rpartition("\t")
    if not text or label not in ("0", "1"):
        raise InvalidInputError(
            f"{path}, line {number} is {line!r:.80}, expected a text, a tab and 0 or 1.", field=str(path)
        )
    return text, int(label)
