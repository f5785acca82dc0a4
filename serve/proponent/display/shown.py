"""What display needs to know of an explanation, whoever makes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class Prediction(Protocol):
    """What the model says of one input."""

    @property
    def class_id(self) -> int:
        """Number of the class."""

    @property
    def label(self) -> str:
        """Name of the class."""

    @property
    def probabilities(self) -> Sequence[float]:
        """One for each class."""


class Example(Protocol):
    """A training example in a list."""

    @property
    def example_id(self) -> str:
        """Its stable id."""

    @property
    def score(self) -> float:
        """Signed; positive argues for the explained label."""

    @property
    def rank(self) -> int:
        """From 1."""

    @property
    def class_id(self) -> int:
        """Number of the class."""

    @property
    def label(self) -> str:
        """Name of the class."""

    @property
    def predicted_class_id(self) -> int:
        """What the model says of it."""

    @property
    def thumbnail(self) -> bytes:
        """A PNG, or empty."""

    @property
    def text(self) -> str:
        """The example itself where it is a text, else empty."""

    @property
    def record(self) -> Mapping[str, object] | None:
        """The example itself where it is a row of a table."""


class Outcome(Protocol):
    """What a diverse list costs and gives."""

    @property
    def influence_kept(self) -> float:
        """Share of plain top-k's influence, 0..1."""

    @property
    def mean_similarity(self) -> float:
        """Of the list's pairs, 0..1."""

    @property
    def plain_similarity(self) -> float:
        """The same of plain top-k."""


class Lists(Protocol):
    """Both ends of one measure, an enum whose value is its name."""

    @property
    def measure(self) -> Any:
        """An enum whose value is the measure's name."""

    @property
    def proponents(self) -> Sequence[Example]:
        """From the highest score."""

    @property
    def opponents(self) -> Sequence[Example]:
        """From the lowest score."""

    @property
    def proponents_diversity(self) -> Outcome | None:
        """None where no diverse selection was asked for."""

    @property
    def opponents_diversity(self) -> Outcome | None:
        """The same of the opponents."""


class Notice(Protocol):
    """Something that the reader must know."""

    @property
    def message(self) -> str:
        """A sentence."""


class Quality(Protocol):
    """How faithful an answer is known to be."""

    @property
    def curvature(self) -> str:
        """Kind of curvature."""

    @property
    def kept_energy(self) -> float:
        """Share of the training gradients' energy that the index keeps, 0..1."""

    @property
    def audit(self) -> Mapping[str, Any]:
        """What was measured."""


class Explanation(Protocol):
    """The answer to one question."""

    @property
    def prediction(self) -> Prediction:
        """Of the input."""

    @property
    def results(self) -> Sequence[Lists]:
        """One for each measure."""

    @property
    def target_class_id(self) -> int:
        """The class explained."""

    @property
    def against_class_id(self) -> int | None:
        """The class argued against in a contrast."""

    @property
    def bundle_digest(self) -> str:
        """Of the bundle that answered."""

    @property
    def quality(self) -> Quality:
        """How faithful it is known to be."""

    @property
    def train_size(self) -> int:
        """Number of training examples."""

    @property
    def notices(self) -> Sequence[Notice]:
        """What the reader must know."""

    @property
    def record(self) -> Mapping[str, object] | None:
        """The row that was asked about, where it is known and was one."""
