"""Levels of disclosure: the fields of a reply above its level are left out, and numbers are rounded below the last.

The proto says of each field at which level it begins (option ``disclosed``); nothing else decides it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
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


def withhold(reply: Message, level: DisclosureLevel) -> None:
    """Leaves out of a reply, in place, what is above a level."""
    if level < DisclosureLevel.FULL:
        _withhold(reply, level)


def disclosed_examples(message: Message) -> Iterator[str]:
    """The ids of training examples that a message names, each as often as it does."""
    plan = _plan(message.DESCRIPTOR)
    for name in plan.ids:
        found = getattr(message, name)
        yield from ((found,) if isinstance(found, str) else found) if found else ()
    for part in _parts(message, plan):
        yield from disclosed_examples(part)


@dataclass(frozen=True)
class _Plan:
    """What a kind of message holds of training examples.

    Attributes:
        levels: Fields that begin at a level.
        numbers: Those of them that are numbers.
        ids: Those that name examples.
        nested: Fields with messages of which the same is to be asked, and whether each is a list.
    """

    levels: Sequence[tuple[str, DisclosureLevel]]
    numbers: Collection[str]
    ids: Sequence[str]
    nested: Sequence[tuple[str, bool]]

    @property
    def is_empty(self) -> bool:
        return not self.levels and not self.nested


@cache
def _plan(descriptor: Descriptor) -> _Plan:
    if descriptor.full_name.startswith("google."):  # some hold themselves, none holds examples
        return _Plan((), (), (), ())
    fields: Any = descriptor.fields
    options = {field.name: field.GetOptions().Extensions[pb.disclosed] for field in fields}
    marked = [field for field in fields if options[field.name].level]
    nested = [field for field in fields if field.message_type is not None and not _plan(field.message_type).is_empty]
    return _Plan(
        levels=[(field.name, DisclosureLevel(options[field.name].level)) for field in marked],
        numbers={field.name for field in marked if field.cpp_type in _NUMBERS},
        ids=[field.name for field in marked if options[field.name].names_examples],
        nested=[(field.name, field.is_repeated) for field in nested],
    )


def _parts(message: Message, plan: _Plan) -> Iterator[Message]:
    for name, repeated in plan.nested:
        if repeated:
            yield from getattr(message, name)
        elif message.HasField(name):
            yield getattr(message, name)


def _withhold(message: Message, level: DisclosureLevel) -> None:
    plan = _plan(message.DESCRIPTOR)
    for name, least in plan.levels:
        if level < least:
            message.ClearField(name)
    for field, value in message.ListFields() if plan.numbers else ():
        if field.name in plan.numbers:
            _round(message, field.name, value)
    for part in _parts(message, plan):
        _withhold(part, level)
    if isinstance(message, pb.MeasureResult | pb.MeasureScores) and message.measure in _RELATIVE:
        _clear_scores(message)


def _round(message: Message, name: str, value: Any) -> None:
    if isinstance(value, float):
        setattr(message, name, rounded(value))
    else:
        value[:] = [rounded(each) for each in value]


def rounded(value: float) -> float:
    """A number to two significant digits.

    >>> rounded(-0.012345), rounded(187.0)
    (-0.012, 190.0)
    """
    return float(f"{value:.{SIGNIFICANT_DIGITS - 1}e}")


def _clear_scores(message: pb.MeasureResult | pb.MeasureScores) -> None:
    for part in _parts(message, _plan(message.DESCRIPTOR)):
        if isinstance(part, pb.Influence):
            part.ClearField("score")
    for name in ("proponents_diversity", "opponents_diversity"):
        if isinstance(message, pb.MeasureResult):
            message.ClearField(name)
