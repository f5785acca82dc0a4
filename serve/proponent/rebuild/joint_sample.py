"""Which examples factors, subspaces and joint basis are fitted to, and in which order passes go through them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import isqrt

import torch
from torch import Tensor

from proponent.attribution.gradients.layers import num_parameters
from proponent.rebuild.context import RebuildContext
from proponent.rebuild.memory import too_small

DEFAULT_SIZE = 768
LEAST_SUBSPACE, MOST_SUBSPACE = 1 << 13, 1 << 15
MOMENT_EXAMPLES = 2048


def most_subspace(parameters: int) -> int:
    """Most numbers D for P covered parameters, unless the spec says: an eighth of them within bounds.

    Networks with more of them need more for RelatIF.
    """
    return min(max(parameters // 8, 2 * LEAST_SUBSPACE), MOST_SUBSPACE)


def sample_size(context: RebuildContext, width: int) -> int:
    """How many rows of ``width`` numbers: z, a copy and as much again, and their products a few times.

    Raises:
        SpecError: The memory holds fewer rows than the basis is to have directions.
    """
    settings, memory = context.settings, context.batching.memory
    count = _most(context, width)
    wanted = min(settings.embedding_size or DEFAULT_SIZE, settings.fit_examples, len(context.data), width)
    if count < wanted:
        needed = 4 * wanted * max(4 * 4 * width, 3 * 8 * wanted)
        raise too_small(memory, needed, f"a joint basis of {wanted} out of {width:,} directions")
    return count


def takes_all(context: RebuildContext) -> bool:
    """Whether the sample is the whole training set, however wide its rows turn out to be."""
    widest = context.settings.subspace_size or most_subspace(num_parameters(context.layers))
    return len(context.data) <= _most(context, max(widest, len(context.layers)))


def _most(context: RebuildContext, width: int) -> int:
    quarter = context.batching.memory // 4
    return min(context.settings.fit_examples, quarter // (4 * 4 * width), isqrt(quarter // (3 * 8)))


def factor_sample(context: RebuildContext) -> Sequence[int]:
    """Positions of the examples that the factors are fitted to."""
    fit, total = context.settings.fit_examples, len(context.data)
    return row_order(context) if total <= fit else context.data.sample(fit, context.settings.seed)


def moment_sample(context: RebuildContext) -> list[int]:
    """Positions of the examples that subspaces are fitted to, ascending."""
    settings = context.settings
    return context.data.sample(min(settings.fit_examples, MOMENT_EXAMPLES), settings.seed + 1)


def row_order(context: RebuildContext) -> Sequence[int]:
    """All positions as the passes go through them.

    Where the factors are fitted to all examples, those of the subspaces come first: the blocks of that pass are then
    blocks of the others too. It does not depend on the memory, with which a killed rebuild may go on.
    """
    total = len(context.data)
    if total > context.settings.fit_examples:
        return range(total)
    return _these_first(tuple(moment_sample(context)), total)


def places_of(context: RebuildContext, positions: Sequence[int]) -> Tensor:
    """Where some positions stand in `row_order`, int64."""
    order, wanted = row_order(context), torch.tensor(positions)
    return wanted if isinstance(order, range) else _places(order)[wanted]


@lru_cache(maxsize=2)
def _these_first(some: tuple[int, ...], total: int) -> tuple[int, ...]:
    return (*some, *sorted(set(range(total)).difference(some)))


@lru_cache(maxsize=2)
def _places(order: tuple[int, ...]) -> Tensor:
    return torch.tensor(order).argsort()
