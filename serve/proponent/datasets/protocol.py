"""What the rest of the package may ask of a dataset and of a transform."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from PIL import Image
from torch import Tensor

Transform = Callable[[Image.Image], Tensor]
"""Maps an image to a float32 tensor ``[C, H, W]``."""


class ImageDataset(Protocol):
    """A finite, ordered set of labelled images.

    Attributes:
        class_names: Name of each class; label ``c`` is ``class_names[c]``.
    """

    class_names: list[str]

    def __len__(self) -> int:
        """Number of examples N."""
        ...

    def __getitem__(self, index: int, /) -> tuple[Image.Image, int]:
        """The image and its label in ``0..len(class_names)-1``; ``IndexError`` outside ``0..N-1``."""
        ...

    def example_id(self, index: int, /) -> str:
        """Unique id, the same whatever the limit, the order or the data root."""
        ...

    def source(self, index: int, /) -> str:
        """Where the example comes from: a file path or ``file#index``."""
        ...
