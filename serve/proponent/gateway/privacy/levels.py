"""Levels of disclosure: the fields of a reply above its level are left out, and numbers are rounded below the last.

The proto says of each field at which level it begins (option ``disclosed``); nothing else decides it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from proponent.errors import PermissionDeniedError
from proponent.results import DisclosureLevel
from proponent.v1 import explanation_pb2 as pb

SIGNIFICANT_DIGITS = 2
_NUMBERS = (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT)
# A RelatIF score beside the influence of the same example would tell the norm that divides it.
_RELATIVE = (pb.MEASURE_THETA_RELATIF, pb.MEASURE_L_RELATIF)


def require_level(level: DisclosureLevel, least: DisclosureLevel, what: str, field: str = "") -> None:
    """Raises PermissionDeniedError where a caller is told less than something needs."""
    if level < least:
        raise PermissionDeniedError(
            f"{what} needs the disclosure level {least.name.lower()!r}, this caller has {level.name.lower()!r}",
            field=field,
            reason="DISCLOSURE_LEVEL",
        )


def level_of(field: str, measure: int) -> DisclosureLevel:
    """The level at which a field of an Influence is told, in the lists of a measure."""
    if field == "score" and measure in _RELATIVE:
        return DisclosureLevel.FULL
    fields: Any = pb.Influence.DESCRIPTOR.fields_by_name
    return DisclosureLevel(fields[field].GetOptions().Extensions[pb.disclosed].level or DisclosureLevel.LABELS)


def withhold(reply: Message, level: DisclosureLevel) -> None:
    """Leaves out of a reply, in place, what is above a level."""
    if level < DisclosureLevel.FULL:
        _withhold(reply, _plan(reply.DESCRIPTOR, level))


def disclosed_examples(message: Message) -> Iterator[str]:
    """The ids of training examples that a message names, each as often as it does."""
    return _named(message, _plan(message.DESCRIPTOR, DisclosureLevel.FULL))


def _named(message: Message, plan: _Plan) -> Iterator[str]:
    for name in plan.ids:
        found = getattr(message, name)
        yield from ((found,) if isinstance(found, str) else found) if found else ()
    for part, below in plan.parts(message):
        yield from _named(part, below)


@dataclass(frozen=True)
class _Plan:
    """What a kind of message holds of training examples, and what is left of it at a level.

    Attributes:
        cleared: Fields above the level.
        rounded: Numbers that are told, but rounded, and whether each is a list.
        ids: Fields that name examples.
        nested: Fields with messages of which the same is to be asked: whether each is a list, and their plan.
        has_measure: Whether it holds the scores of one measure.
    """

    cleared: Sequence[str]
    rounded: Sequence[tuple[str, bool]]
    ids: Sequence[str]
    nested: Sequence[tuple[str, bool, _Plan]]
    has_measure: bool

    @property
    def is_empty(self) -> bool:
        return not (self.cleared or self.rounded or self.ids or self.nested)

    def parts(self, message: Message) -> Iterator[tuple[Message, _Plan]]:
        """The messages in one, with their plans."""
        for name, repeated, below in self.nested:
            if repeated:
                for part in getattr(message, name):
                    yield part, below
            elif message.HasField(name):
                yield getattr(message, name), below


_NOTHING = _Plan((), (), (), (), False)


@cache
def _plan(descriptor: Descriptor, level: DisclosureLevel) -> _Plan:
    if descriptor.full_name.startswith("google."):  # some hold themselves, none holds examples
        return _NOTHING
    fields: Any = descriptor.fields
    options = {field.name: field.GetOptions().Extensions[pb.disclosed] for field in fields}
    marked = [field for field in fields if options[field.name].level]
    told = [field for field in marked if options[field.name].level <= level]
    inner = [(f.name, f.is_repeated, _plan(f.message_type, level)) for f in fields if f.message_type is not None]
    return _Plan(
        cleared=[field.name for field in marked if options[field.name].level > level],
        rounded=[(f.name, f.is_repeated) for f in told if f.cpp_type in _NUMBERS and level < DisclosureLevel.FULL],
        ids=[field.name for field in marked if options[field.name].names_examples],
        nested=[each for each in inner if not each[2].is_empty],
        has_measure=descriptor in (pb.MeasureResult.DESCRIPTOR, pb.MeasureScores.DESCRIPTOR),
    )


def _withhold(message: Any, plan: _Plan) -> None:
    for name in plan.cleared:
        message.ClearField(name)
    for name, repeated in plan.rounded:
        value = getattr(message, name)
        if repeated:
            value[:] = map(rounded, value)
        elif value:
            setattr(message, name, rounded(value))
    for part, below in plan.parts(message):
        _withhold(part, below)
    if plan.has_measure and message.measure in _RELATIVE:
        _clear_scores(message, plan)


def rounded(value: float) -> float:
    """A number to two significant digits.

    >>> rounded(-0.012345), rounded(187.0)
    (-0.012, 190.0)
    """
    return float(f"{value:.{SIGNIFICANT_DIGITS - 1}e}")


def _clear_scores(message: Any, plan: _Plan) -> None:
    for part, _ in plan.parts(message):
        if isinstance(part, pb.Influence):
            part.ClearField("score")
    for name in ("proponents_diversity", "opponents_diversity"):
        if isinstance(message, pb.MeasureResult):
            message.ClearField(name)
