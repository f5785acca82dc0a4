"""Examples that were read before: a rebuild's stages look at the same ones, and reading costs a small model dear."""

from __future__ import annotations

from proponent.attribution.inputs import Example, tensors_of

SHARE = 16
"""Part of a rebuild's memory, one of so many, that examples may take."""


class KeptExamples:
    """Model inputs, labels and keys of as many examples as some bytes hold.

    Args:
        memory: Bytes of the inputs.
    """

    def __init__(self, memory: int = 0) -> None:
        self._left = memory
        self._found: dict[int, tuple[Example, int, int]] = {}

    def __contains__(self, position: int) -> bool:
        return position in self._found

    def __getitem__(self, position: int) -> tuple[Example, int, int]:
        return self._found[position]

    def add(self, position: int, value: Example, label: int, key: int) -> None:
        """Keeps an example where there is room; its tensors must not be written to."""
        size = sum(tensor.nbytes for tensor in tensors_of(value).values())
        if position not in self._found and size <= self._left:
            self._found[position] = (value, label, key)
            self._left -= size
