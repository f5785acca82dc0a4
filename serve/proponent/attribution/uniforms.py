"""Random numbers by counter: a function of (seed, example id, draw), so that no batch or worker order matters."""

from __future__ import annotations

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_BITS = 64
_MULTIPLIERS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)


def example_uniforms(ids: Tensor, seed: int, draw: int) -> Tensor:
    """Uniform numbers that depend on (seed, id, draw) alone, never on the batch or its order.

    A counter-based generator: SplitMix64's finaliser (Steele, Lea & Flood 2014) applied to the example id
    offset by a hash of seed and draw.

    Args:
        ids: ``[B]`` int64 example ids.
        seed: Any integer.
        draw: Number of the draw, from 0.

    Returns:
        ``[B]`` float64 in [0, 1).
    """
    key = _mix(_mix(torch.full_like(ids, seed) * _GOLDEN) + draw) * _GOLDEN
    bits = _mix(_mix(ids + key) ^ key)
    return _shift_right(bits, 11).double() * 2.0**-53


def example_signs(ids: Tensor, seed: int, size: int) -> Tensor:
    """Random signs that depend on (seed, id) alone.

    Args:
        ids: ``[B]`` int64 example ids.
        seed: Any integer.
        size: How many.

    Returns:
        ``[B, size]`` float32 of +1 and -1.
    """
    key = _mix(_mix(ids + torch.full_like(ids, seed) * _GOLDEN) * _GOLDEN)
    counters = torch.arange(1, -(-size // _BITS) + 1, device=ids.device) * _GOLDEN
    words = _mix(key[:, None] + counters)
    bits = (words[..., None] >> torch.arange(_BITS, device=ids.device)) & 1
    return (bits.flatten(1)[:, :size] * 2 - 1).float()


def _mix(words: Tensor) -> Tensor:
    """SplitMix64's bijective finaliser on int64 words, whose products wrap around."""
    words = (words ^ _shift_right(words, 30)) * _MULTIPLIERS[0]
    words = (words ^ _shift_right(words, 27)) * _MULTIPLIERS[1]
    return words ^ _shift_right(words, 31)


def _shift_right(words: Tensor, bits: int) -> Tensor:
    """Logical shift: int64's own shift repeats the sign bit."""
    return (words >> bits) & ((1 << (64 - bits)) - 1)
