"""Scikit-learn's bundled handwritten digits: 1,797 grey images of 8 x 8 pixels, no file needed."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from proponent.datasets.arrays import ArrayImages, stratified_split

HELD_OUT = 360
_SEED = 0


def train(limit: int | None = None) -> ArrayImages:
    """The 1,437 training digits, or the first ``limit`` of them; ids ``digits-0012``."""
    digits = _all()
    return digits.take(stratified_split(digits.labels, HELD_OUT, _SEED)[0][:limit])


def test(limit: int | None = None) -> ArrayImages:
    """The 360 held-out digits, or the first ``limit`` of them."""
    digits = _all()
    return digits.take(stratified_split(digits.labels, HELD_OUT, _SEED)[1][:limit])


def _all() -> ArrayImages:
    bunch = load_digits()
    pixels = np.round(bunch.images * 255 / 16).astype(np.uint8)
    names = [str(digit) for digit in range(10)]
    return ArrayImages(pixels, bunch.target, names, name="digits", file="sklearn.datasets.load_digits")
