"""What a call costs, estimated from its size alone, before anything is computed: seconds of one core, and memory.

The gateway refuses what is over its bound and says what would fit; callers in process may ask the same. Rates are
those seen on the machine of docs/performance.md beside other load, rounded to the slow side: they bound calls, they
do not predict them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from proponent.errors import InvalidInputError
from proponent.options import Diversity, Redundancy

MAX_CANDIDATES = 5000
"""Largest pool of a diverse selection: its kernel matrix takes 100 MB and half a second."""
KERNEL_BYTES = 512 << 20
"""Largest kernel matrix that a diverse selection holds."""

MULTIPLY_ADDS = 1.0e10
"""Multiply-adds a second of a matrix product in single precision."""
STREAMED_MULTIPLY_ADDS = 2.0e9
"""The same where a matrix is read for one vector."""
KERNEL_ENTRIES = 1.0e8
"""Kernel entries a second that are compared or summed."""
LISTED_S = 4.0e-5
"""Seconds for one training example in a reply: exact score, catalog and message."""
HIGHLIGHT_S = 0.1
"""Seconds for the words of one pair of texts: a sentence each, and a small network of transformers. What more takes
longer, the deadline ends: it is looked at before each batch of words."""
STEP_S = 5.0e-4
"""Seconds for one step of a greedy choice, whatever its pool."""

NEWTON_STEPS = 10
"""Matrix products of one second-order estimate: 5 to 17 were seen."""
FLIP_TRIALS = 12
"""Second-order estimates of one search for a flip set: 9 to 11 were seen."""
POPULATION = 8192
"""Rows that stand for the others in a second-order estimate (``attribution.groups``)."""
SEARCHED_CHOICES, PLAIN_CHOICES = 14, 3
"""Greedy choices of one list where the loss of influence is bounded, and where gamma is given."""


class IndexSize(Protocol):
    """What a manifest says of an index."""

    @property
    def train_size(self) -> int:
        """N."""

    @property
    def embedding_size(self) -> int:
        """K, the numbers of a row."""

    @property
    def row_groups(self) -> int:
        """Bases that rows are coded in; 0: they are vectors as they are."""

    @property
    def query_size(self) -> int:
        """Numbers of a query; 0: those of a row."""

    @property
    def teachers(self) -> int:
        """Where there are some, no row has any curvature, and a second order equals the first."""


@dataclass(frozen=True)
class Cost:
    """An estimate; ``kernel_bytes`` is what the largest kernel matrix takes."""

    seconds: float
    kernel_bytes: int = 0


def lists_cost(size: IndexSize, top_k: int, measures: int) -> Cost:
    """Both ends of so many measures."""
    return Cost(_shortened(size) + 2 * measures * min(top_k, size.train_size) * _listed(size))


def scores_cost(size: IndexSize, examples: int, measures: int) -> Cost:
    """Exact scores of named examples."""
    return Cost(_shortened(size) + measures * examples * _listed(size))


def highlights_cost(pairs: int) -> Cost:
    """The words of so many pairs of texts."""
    return Cost(HIGHLIGHT_S * (1 + pairs))


def removal_cost(size: IndexSize, group: int, *, second_order: bool) -> Cost:
    """The estimate of one removal."""
    return Cost(group * LISTED_S + (_newton(size, group) if second_order else _read(size, group)))


def flip_cost(size: IndexSize, max_size: int) -> Cost:
    """The search for a flip set of at most so many; 0 is the default of a tenth of the training set."""
    limit = min(max_size or max(1, size.train_size // 10), size.train_size)
    return Cost(FLIP_TRIALS * _newton(size, limit) + _read(size, size.train_size))


def diversity_cost(size: IndexSize, diversity: Diversity, top_k: int, measures: int) -> Cost:
    """Diverse lists of both ends of so many measures."""
    pool = min(pool_size(diversity, top_k), size.train_size)
    k, domain = min(top_k, pool), size.train_size if diversity.whole_dataset else pool
    choices = PLAIN_CHOICES if diversity.max_influence_loss is None else SEARCHED_CHOICES
    seconds = (
        pool * LISTED_S
        + _lifted(size, pool)
        + choices * k * (STEP_S + pool / KERNEL_ENTRIES)
        + k * _product(size, pool, 1)
    )
    held = 0
    if diversity.redundancy is not Redundancy.SUM:
        seconds += _product(size, pool, domain) + pool * domain / KERNEL_ENTRIES
        seconds += _lifted(size, domain) if diversity.whole_dataset else 0.0
        held = 0 if diversity.redundancy is Redundancy.MMD and diversity.whole_dataset else 4 * pool * domain
    if diversity.redundancy is Redundancy.FACILITY_LOCATION:
        computed = min(4 * pool + 50 * k, k * pool)
        seconds += choices * computed * domain / KERNEL_ENTRIES
    return Cost(2 * measures * seconds, held)


def pool_size(diversity: Diversity | None, top_k: int) -> int:
    """Candidates to ask of each end."""
    return top_k if diversity is None else max(top_k, min(diversity.candidates, MAX_CANDIDATES))


def check_cost(cost: Callable[[int], Cost], asked: int, field: str, limit_s: float) -> None:
    """Refuses a call that costs too much, and says how much of one of its numbers would fit.

    Args:
        cost: Of the call, for a value of that number; grows with it.
        asked: The value.
        field: The request field that holds it.
        limit_s: Most seconds.

    Raises:
        InvalidInputError: Names the field, the cost, the bound and the largest value within it.
    """

    def fits(value: int) -> bool:
        found = cost(value)
        return found.seconds <= limit_s and found.kernel_bytes <= KERNEL_BYTES

    if fits(asked):
        return
    low, high = 0, asked
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    found = cost(asked)
    memory = f" and {found.kernel_bytes >> 20} MiB" if found.kernel_bytes else ""
    bound = f" and {KERNEL_BYTES >> 20} MiB" if found.kernel_bytes else ""
    advice = f"a {field.rpartition('.')[2]} of {low} would fit" if low else "no value of it would fit"
    raise InvalidInputError(
        f"field {field!r} has value {asked}: the call would take about {found.seconds:.1f} s of one core{memory}, "
        f"expected at most {limit_s:.1f} s{bound}; {advice}",
        field=field,
        reason="COST_TOO_LARGE",
    )


def _listed(size: IndexSize) -> float:
    return LISTED_S + size.embedding_size / STREAMED_MULTIPLY_ADDS


def _width(size: IndexSize) -> int:
    """Numbers of the vector that a row stands for."""
    return size.query_size or size.embedding_size


def _shortened(size: IndexSize) -> float:
    """A query in the basis of each group."""
    return size.row_groups * size.embedding_size * _width(size) / STREAMED_MULTIPLY_ADDS


def _lifted(size: IndexSize, rows: int) -> float:
    """Vectors of coded rows."""
    return rows * size.embedding_size * _width(size) / MULTIPLY_ADDS if size.row_groups else 0.0


def _read(size: IndexSize, rows: int) -> float:
    return _lifted(size, rows) + rows * _width(size) / STREAMED_MULTIPLY_ADDS


def _product(size: IndexSize, left: int, right: int) -> float:
    return left * right * _width(size) / MULTIPLY_ADDS


def _newton(size: IndexSize, group: int) -> float:
    if size.teachers:
        return _read(size, group)
    return 2 * NEWTON_STEPS * _read(size, group + min(POPULATION, size.train_size))
