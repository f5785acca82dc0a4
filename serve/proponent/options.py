"""What a caller may choose about an answer: plain values, no torch, no protobuf."""

from __future__ import annotations

import enum
from dataclasses import dataclass

DEFAULT_TOP_K = 10
"""Training examples in a list where none is asked for."""


class Measure(enum.Enum):
    """How influence is measured; the order is the order of results in a reply.

    >>> [measure.value for measure in Measure]
    ['influence', 'theta-relatif', 'l-relatif']
    """

    INFLUENCE = "influence"
    THETA_RELATIF = "theta-relatif"
    L_RELATIF = "l-relatif"


class Side(enum.Enum):
    """Which list of an explanation.

    >>> Side("opponents").name
    'OPPONENTS'
    """

    PROPONENTS = "proponents"
    OPPONENTS = "opponents"


class OrderBy(enum.Enum):
    """How training examples are ordered; see OrderBy in the proto.

    >>> OrderBy("class").name
    'CLASS'
    """

    SELF_INFLUENCE_DESCENDING = "self-influence-descending"
    SELF_INFLUENCE_ASCENDING = "self-influence-ascending"
    EXAMPLE_ID = "example-id"
    CLASS = "class"


@dataclass(frozen=True)
class ExampleQuery:
    """Which training examples are listed, and in which order; filters of different kinds must all hold.

    Attributes:
        class_ids: Their labels; none given means all.
        predicted_class_ids: What the model predicts for them; none given means all.
        disagreeing: Whether only those are that the model classifies otherwise than they are labelled.
        min_self_influence: Least self-influence, itself included.
        max_self_influence: Greatest self-influence, itself included.

    >>> ExampleQuery(class_ids=(3, 8), disagreeing=True).order_by.value
    'self-influence-descending'
    """

    class_ids: tuple[int, ...] = ()
    predicted_class_ids: tuple[int, ...] = ()
    disagreeing: bool = False
    min_self_influence: float | None = None
    max_self_influence: float | None = None
    order_by: OrderBy = OrderBy.SELF_INFLUENCE_DESCENDING


class Estimator(enum.Enum):
    """How the effect of a removal is estimated; see ``attribution.groups``.

    >>> Estimator("influence-sum").name
    'INFLUENCE_SUM'
    """

    FIRST_ORDER = "first-order"
    SECOND_ORDER = "second-order"
    INFLUENCE_SUM = "influence-sum"


class View(enum.IntEnum):
    """How much of a training example an answer discloses; each includes the ones before.

    >>> View.THUMBNAIL > View.ID_ONLY
    True
    """

    ID_ONLY = 1
    METADATA = 2
    THUMBNAIL = 3


class Redundancy(enum.Enum):
    """The redundancy term of a DIVINE selection (Bhatt et al. 2021).

    >>> Redundancy("mmd").name
    'MMD'
    """

    SUM = "sum-redundancy"
    FACILITY_LOCATION = "facility-location"
    MMD = "mmd"


@dataclass(frozen=True)
class Target:
    """Which label is explained: None for the predicted one; ``against`` makes it a contrast.

    >>> Target(3, against=8)  # why 3 rather than 8
    Target(class_id=3, against=8)
    """

    class_id: int | None = None
    against: int | None = None


@dataclass(frozen=True)
class Filter:
    """Which training examples may appear; an empty ``allow`` allows every class.

    >>> Filter(allow=frozenset({3, 8})).active, Filter().active
    (True, False)
    """

    allow: frozenset[int] = frozenset()
    deny: frozenset[int] = frozenset()
    exclude: tuple[str, ...] = ()

    @property
    def active(self) -> bool:
        """Whether anything is filtered at all."""
        return bool(self.allow or self.deny or self.exclude)


@dataclass(frozen=True)
class Diversity:
    """A DIVINE selection.

    Attributes:
        redundancy: The term.
        gamma: Its weight >= 0: 0 is plain top-k, and at 1 plain top-k is worth as much as diversity alone.
        max_influence_loss: Share of plain top-k's influence that may be lost, 0..1; takes gamma's place.
        candidates: Size of the pool taken from each end.
        bandwidth: Of the RBF kernel; None for the median rule.
        whole_dataset: Whether sums run over all training examples instead of the pool.
        unscaled: Whether gamma multiplies the term as the paper writes it.

    >>> Diversity(Redundancy.FACILITY_LOCATION, max_influence_loss=0.1).candidates
    1000
    """

    redundancy: Redundancy = Redundancy.SUM
    gamma: float = 1.0
    max_influence_loss: float | None = None
    candidates: int = 1000
    bandwidth: float | None = None
    whole_dataset: bool = False
    unscaled: bool = False


class Ranking(enum.Enum):
    """By what the examples of an answer are ranked.

    BY_END: Each end for itself, ``top_k`` of each.
    BY_MAGNITUDE: By |score|, as the paper maximises it: ``top_k`` of both ends together.

    >>> Ranking("by-magnitude").name
    'BY_MAGNITUDE'
    """

    BY_END = "by-end"
    BY_MAGNITUDE = "by-magnitude"


class DeadlinePolicy(enum.Enum):
    """What the service answers when an explanation cannot be ready within its deadline.

    >>> DeadlinePolicy("prediction-only-when-late").name
    'PREDICTION_ONLY_WHEN_LATE'
    """

    FAIL_WHEN_LATE = "fail-when-late"
    PREDICTION_ONLY_WHEN_LATE = "prediction-only-when-late"


@dataclass(frozen=True)
class ExplainIf:
    """Which inputs are worth an explanation; any condition that holds suffices, and without one none is explained.

    Attributes:
        confidence_below: The predicted class has a probability below this, 0..1.
        sampled_share: Share of all inputs, 0..1, drawn at random.

    >>> ExplainIf(confidence_below=0.9).sampled_share is None
    True
    """

    confidence_below: float | None = None
    sampled_share: float | None = None


@dataclass(frozen=True)
class ExplainOptions:
    """What a caller may choose about an explanation; ``deadline_policy`` matters to a service alone.

    >>> ExplainOptions(measures=(Measure.L_RELATIF,), top_k=3).top_k
    3
    """

    measures: tuple[Measure, ...] = tuple(Measure)
    top_k: int = DEFAULT_TOP_K
    target: Target = Target()
    filter: Filter = Filter()
    diversity: Diversity | None = None
    view: View = View.ID_ONLY
    explain_if: ExplainIf | None = None
    deadline_policy: DeadlinePolicy = DeadlinePolicy.FAIL_WHEN_LATE
    ranking: Ranking = Ranking.BY_END
