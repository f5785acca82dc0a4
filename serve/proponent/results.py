"""What an answer is made of: plain values, no torch, no protobuf.

Values that hold lists of training examples have ``to_pandas()``, which needs pandas (``pip install pandas``); an
explanation shows itself in notebooks and as a plot.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from proponent.options import Measure
from proponent.signature import InputSignature

Scalar: TypeAlias = str | bool | int | float | None
"""A value of a table row; None is a missing one."""

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure


class NoticeCode(enum.Enum):
    """Kinds of notices, by the names of the proto's enum."""

    K_CAPPED = "CODE_K_CAPPED"
    ZERO_INFLUENCE = "CODE_ZERO_INFLUENCE"
    NO_DIRECTION = "CODE_NO_DIRECTION"
    ROWS_OMITTED = "CODE_ROWS_OMITTED"
    CANDIDATES_CAPPED = "CODE_CANDIDATES_CAPPED"
    LAYERS_UNCOVERED = "CODE_LAYERS_UNCOVERED"
    NO_FLIP_FOUND = "CODE_NO_FLIP_FOUND"
    PARAMETERS_FROZEN = "CODE_PARAMETERS_FROZEN"
    EXPLANATION_LATE = "CODE_EXPLANATION_LATE"
    EXPLANATION_SKIPPED = "CODE_EXPLANATION_SKIPPED"
    SCORES_DISTILLED = "CODE_SCORES_DISTILLED"


class DisclosureLevel(enum.IntEnum):
    """How much a service tells of training examples; each level includes the ones before (see the proto).

    What is left out of a reply is nan where it is a number, else empty.

    >>> DisclosureLevel.FULL > DisclosureLevel.RANKS
    True
    """

    LABELS = 1
    RANKS = 2
    ROUNDED = 3
    FULL = 4


@dataclass(frozen=True)
class Notice:
    """Something the reader of a reply must know; ``count`` where the kind has one.

    >>> Notice(NoticeCode.K_CAPPED, "top_k is 50, the index holds 20", count=20).code.value
    'CODE_K_CAPPED'
    """

    code: NoticeCode
    message: str
    count: int = 0


@dataclass(frozen=True)
class Prediction:
    """What the model says of one input; ``probabilities`` has one float for each class and sums to 1.

    >>> Prediction(1, "dog", [0.25, 0.75]).label
    'dog'
    """

    class_id: int
    label: str
    probabilities: Sequence[float]


@dataclass(frozen=True, init=False)
class Influence:
    """One training example in an explanation.

    ``score`` is signed: positive argues for the explained label (training on the example lowered its loss).
    ``self_influence`` is g_i^T C^-1 g_i. ``rank`` counts from 1. What a service's disclosure level leaves out is nan.
    ``text`` and ``record`` are the example itself where the data set holds texts or rows of a table.

    >>> influence = Influence("img-7", +2.5, 1, class_id=1, label="dog", predicted_class_id=1, self_influence=0.5)
    >>> influence.score > 0  # argues for the explained label
    True
    """

    example_id: str
    score: float
    rank: int
    class_id: int
    label: str
    predicted_class_id: int
    self_influence: float
    source: str = ""
    thumbnail: bytes = b""
    text: str = ""
    record: Mapping[str, object] | None = None

    def __init__(
        self,
        example_id: str,
        score: float,
        rank: int,
        class_id: int,
        label: str,
        predicted_class_id: int,
        self_influence: float,
        source: str = "",
        thumbnail: bytes = b"",
        text: str = "",
        record: Mapping[str, object] | None = None,
    ) -> None:
        """All at once: field by field, as a frozen dataclass does it, takes four times as long."""
        vars(self).update(
            example_id=example_id,
            score=score,
            rank=rank,
            class_id=class_id,
            label=label,
            predicted_class_id=predicted_class_id,
            self_influence=self_influence,
            source=source,
            thumbnail=thumbnail,
            text=text,
            record=record,
        )

    def ranked(self, score: float, rank: int) -> Influence:
        """The same example with another score and rank.

        >>> Influence("img-7", 0.0, 0, 1, "dog", 1, self_influence=0.5).ranked(-0.5, 2).score
        -0.5
        """
        other = object.__new__(Influence)
        values = other.__dict__
        values.update(self.__dict__)
        values["score"], values["rank"] = score, rank  # named in the update they take as long as all the rest
        return other


@dataclass(frozen=True)
class DiversityOutcome:
    """What a diverse list costs and gives, beside plain top-k of the same candidates.

    Attributes:
        influence_kept: Sum of the list's scores over that of plain top-k, 0..1.
        redundancy_gained: What the redundancy term gains, 0 for plain top-k, 1 for what is chosen for the term alone.
        mean_similarity: Mean RBF kernel of the list's pairs, 0..1.
        plain_similarity: The same of plain top-k.
    """

    influence_kept: float
    redundancy_gained: float
    mean_similarity: float
    plain_similarity: float


@dataclass(frozen=True)
class MeasureResult:
    """Both ends of one measure: proponents from the highest score, opponents from the lowest.

    Ranked by magnitude, ranks count across both. The outcomes are those of a diverse selection; None where none was
    asked for, or the end is empty.
    """

    measure: Measure
    proponents: Sequence[Influence]
    opponents: Sequence[Influence]
    proponents_diversity: DiversityOutcome | None = None
    opponents_diversity: DiversityOutcome | None = None

    @property
    def merged(self) -> Sequence[Influence]:
        """Both lists in one, by rank; of an answer ranked by magnitude the strongest first, marked by their sign."""
        return sorted((*self.proponents, *self.opponents), key=lambda influence: influence.rank)


@dataclass(frozen=True)
class MeasureScores:
    """The exact scores of named examples under one measure, in the order they were named."""

    measure: Measure
    scores: Sequence[Influence]


@dataclass(frozen=True)
class Quality:
    """How faithful an answer is known to be; ``kept_energy`` lies in 0..1."""

    curvature: str
    kept_energy: float
    audit: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Explanation:
    """The answer to one explanation request; ``timings`` maps a stage to seconds.

    ``results`` is empty where a notice says that the input was not explained. ``against_class_id`` is the class
    argued against in a contrast. ``record`` is the row that was asked about, where it was one (not of a stream): rows
    are shown in what they differ from it.

    >>> result = MeasureResult(Measure.INFLUENCE, proponents=[], opponents=[])
    >>> quality = Quality("exact", kept_energy=1.0)
    >>> found = Explanation(Prediction(0, "cat", [0.9, 0.1]), [result], 0, "3f2a", quality, train_size=100)
    >>> found.prediction.label, found.results[0].measure.value
    ('cat', 'influence')
    """

    prediction: Prediction
    results: Sequence[MeasureResult]
    target_class_id: int
    bundle_digest: str
    quality: Quality
    train_size: int
    notices: Sequence[Notice] = ()
    timings: Mapping[str, float] = field(default_factory=dict)
    disclosure_level: DisclosureLevel = DisclosureLevel.FULL
    against_class_id: int | None = None
    record: Mapping[str, object] | None = None

    def _repr_html_(self) -> str:
        """What notebooks show: the prediction and the lists side by side, complete in itself."""
        from proponent.display.notebook import fragment

        return fragment(self)

    def plot(self) -> Figure:
        """A figure of matplotlib: for each measure the signed scores of both lists, with thumbnails where it has any.

        It is the caller's own: no pyplot state is read or changed. ``figure.savefig("why.svg")`` writes it.
        """
        from proponent.display.lists_plot import lists_figure

        return lists_figure(self)

    def to_pandas(self) -> pandas.DataFrame:
        """One row for each training example of each list: measure, side and the fields of `Influence`."""
        return table(
            {"measure": result.measure.value, "side": side, **vars(influence)}
            for result in self.results
            for side in ("proponents", "opponents")
            for influence in getattr(result, side)
        )


@dataclass(frozen=True)
class ScoredExamples:
    """The exact scores of named examples for one input.

    >>> ScoredExamples(Prediction(0, "cat", [0.9, 0.1]), [], "3f2a", train_size=100).train_size
    100
    """

    prediction: Prediction
    results: Sequence[MeasureScores]
    bundle_digest: str
    train_size: int
    notices: Sequence[Notice] = ()
    disclosure_level: DisclosureLevel = DisclosureLevel.FULL

    def to_pandas(self) -> pandas.DataFrame:
        """One row for each training example under each measure."""
        return table(
            {"measure": result.measure.value, **vars(score)} for result in self.results for score in result.scores
        )


@dataclass(frozen=True)
class RemovalEstimate:
    """What the removal of ``group_size`` examples, and retraining, is predicted to change.

    ``loss_change`` is that of the target's loss (for a contrast, of the difference of both losses).

    >>> estimate = RemovalEstimate(Prediction(0, "cat", [0.9, 0.1]), +0.2, [0.8, 0.2], 5, "3f2a", train_size=100)
    >>> estimate.loss_change > 0  # without the group the label would be less likely
    True
    """

    prediction: Prediction
    loss_change: float
    probabilities_after: Sequence[float]
    group_size: int
    bundle_digest: str
    train_size: int
    notices: Sequence[Notice] = ()
    disclosure_level: DisclosureLevel = DisclosureLevel.FULL


@dataclass(frozen=True)
class WeighedWord:
    """A word of a text: the characters ``start`` to ``end``, and what a score loses without it."""

    start: int
    end: int
    weight: float


@dataclass(frozen=True)
class Highlight:
    """Which words carry the influence of one training text on one text.

    Attributes:
        score: The pair's influence.
        asked: Words of the text asked about, in order.
        example: Words of the training text; empty where it is not shown.
        text: The training text; empty where it is not shown.
        unavailable: Why this example has no weights; else empty.
    """

    example_id: str
    score: float = math.nan
    asked: Sequence[WeighedWord] = ()
    example: Sequence[WeighedWord] = ()
    text: str = ""
    unavailable: str = ""


@dataclass(frozen=True)
class Highlights:
    """Which words carry the influence of some training texts on ``text``, in the order asked for.

    >>> pair = Highlight("film/3", 0.5, [WeighedWord(0, 4, 0.4)], [WeighedWord(2, 6, 0.1)], "a fine film")
    >>> found = Highlights(Prediction(1, "good", [0.2, 0.8]), [pair], 1, "3f2a")
    >>> [pair.text[token.start : token.end] for pair in found.highlights for token in pair.example]
    ['fine']
    """

    prediction: Prediction
    highlights: Sequence[Highlight]
    target_class_id: int
    bundle_digest: str
    against_class_id: int | None = None
    disclosure_level: DisclosureLevel = DisclosureLevel.FULL
    text: str = ""

    def _repr_html_(self) -> str:
        """What notebooks show: both texts of each pair with their words marked."""
        from proponent.display.notebook import words_fragment

        return words_fragment(self)


@dataclass(frozen=True)
class FlipSet:
    """Examples whose removal is predicted to change the predicted class; no members where none were found.

    A member's score is its influence on the margin over the class that wins: positive, as it argues against it.

    >>> FlipSet(Prediction(0, "cat", [0.6, 0.4]), [], 0, [0.6, 0.4], "3f2a").members  # none was found
    []
    """

    prediction: Prediction
    members: Sequence[Influence]
    flipped_class_id: int
    probabilities_after: Sequence[float]
    bundle_digest: str
    notices: Sequence[Notice] = ()
    disclosure_level: DisclosureLevel = DisclosureLevel.FULL

    def to_pandas(self) -> pandas.DataFrame:
        """One row for each member."""
        return table(vars(member) for member in self.members)


@dataclass(frozen=True)
class TrainingExample:
    """What the catalog knows of one training example; ``thumbnail`` is a PNG, empty where there is none.

    ``text`` and ``record`` are the example itself where the data set holds texts or rows of a table.

    ``is_label_issue`` says whether the model disagrees with the label and self-influence is among the highest tenth.
    """

    example_id: str
    class_id: int
    label: str
    predicted_class_id: int
    self_influence: float
    source: str = ""
    thumbnail: bytes = b""
    is_label_issue: bool = False
    text: str = ""
    record: Mapping[str, object] | None = None


@dataclass(frozen=True)
class Suspect:
    """A training example as a candidate for a wrong label.

    ``label_score`` lies in 0..1, lower is more suspicious: one minus the quantile of self-influence.
    ``is_label_issue`` says whether the model also disagrees with the label.
    """

    example_id: str
    is_label_issue: bool
    label_score: float
    given_class_id: int
    predicted_class_id: int
    self_influence: float


@dataclass(frozen=True)
class Suspects:
    """A page of suspects, most suspicious first.

    Attributes:
        total: How many examples are ranked.
        next_page_token: Asks for the next page; empty after the last one.
    """

    suspects: Sequence[Suspect]
    bundle_digest: str
    total: int
    next_page_token: str = ""

    def to_pandas(self) -> pandas.DataFrame:
        """One row for each suspect, with a column for each of its fields."""
        return table(vars(suspect) for suspect in self.suspects)


@dataclass(frozen=True)
class ModelInfo:
    """A served model and its bundle; see GetModelResponse in the proto for each field."""

    model: str
    bundle_digest: str
    weights_sha256: str
    curvature: str
    damping: float
    damping_relative: bool
    embedding_size: int
    train_size: int
    class_names: Sequence[str]
    input_shape: Sequence[int]
    kept_energy: float
    audit: Mapping[str, object]
    loss: str
    created: str
    uncovered_share: float
    uncovered: Sequence[str]
    image_size: Sequence[int]
    image_mode: str
    frozen_share: float
    frozen: Sequence[str]
    allow_examples: bool
    allow_thumbnails: bool
    allow_samples: bool
    samples: int
    train_accuracy: float
    disclosure_level: DisclosureLevel
    unavailable_reason: str
    unavailable_detail: str
    teachers: int
    input_signature: InputSignature


def table(rows: Iterable[Mapping[str, object]]) -> pandas.DataFrame:
    """A table with a column for each key."""
    import pandas

    return pandas.DataFrame(list(rows))
