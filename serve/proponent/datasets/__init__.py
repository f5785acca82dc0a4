"""Image datasets of known examples: map-style, every example with a stable id and a source.

A dataset yields ``(PIL image, int label)``; the transform to a tensor is applied outside it. Nothing here
downloads: a missing file is an error that names every path looked at.
"""

from proponent.datasets.protocol import ImageDataset, Transform
from proponent.datasets.tensors import materialise

__all__ = ["ImageDataset", "Transform", "materialise"]
