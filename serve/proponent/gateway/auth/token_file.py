"""The file of bearer tokens: a line for each, with the token's hash and never the token itself.

``sha256:HEX name=NAME scopes=SCOPE,SCOPE [level=LEVEL] [rate=CALLS] [explanations=COUNT] [examples=COUNT]``; blank
lines and lines with ``#`` first are skipped. ``proponent token`` writes such lines. Tokens are random and long, so
that a plain hash of them can be neither reversed nor guessed.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from proponent.errors import SpecError
from proponent.gateway.auth.caller import Allowance, Caller, Scope
from proponent.results import DisclosureLevel

PREFIX = "sha256:"
# Characters below which a token of unknown origin may be a word or a number.
_LONG_ENOUGH = 24
_HASH = re.compile(rf"{PREFIX}[0-9a-f]{{64}}")
_NAME = re.compile(r"[\w.@-]{1,64}", re.ASCII)
_EXPECTED = (
    f"expected {PREFIX}HEX name=NAME scopes=... [level=...] [rate=...] [explanations=...] [examples=...]; "
    "make lines with: proponent token"
)
_PLAIN = "a plain token, which a file must not hold; hash all of the file's with: proponent token --upgrade FILE"
_UNKNOWN = Caller("", frozenset(), DisclosureLevel.LABELS)


def token_digest(token: str) -> bytes:
    """What a token is known by."""
    return hashlib.sha256(token.encode()).digest()


def new_token() -> str:
    """A token of 256 random bits."""
    return f"pt_{secrets.token_urlsafe(32)}"


def token_line(token: str, name: str, scopes: str, extra: Mapping[str, object]) -> str:
    """The line of a token.

    Args:
        token: Is not in it.
        name: Of the caller.
        scopes: Joined by commas.
        extra: Level and bounds by their names in a line; what is left out is the gateway's default.

    Raises:
        ValueError: Something cannot stand in a line.
    """
    pairs = {"name": _name(name), "scopes": scopes, **extra}
    line = " ".join([f"{PREFIX}{token_digest(token).hex()}", *(f"{key}={value}" for key, value in pairs.items())])
    _parsed(line, _UNKNOWN)
    return line


def read_tokens(path: Path, default: Caller) -> dict[bytes, Caller]:
    """The callers of a file by the digests of their tokens.

    Args:
        path: The file.
        default: Level and allowance of the lines that name none.

    Raises:
        SpecError: A line has another form; it is given by number, not by text.
    """
    found: dict[bytes, Caller] = {}
    for number, line in _lines(path):
        try:
            caller = _parsed(line, default)
        except ValueError as error:
            raise SpecError(f"{path}: line {number}: {error}", field="tokens_file") from None
        if caller.credential in found:
            raise SpecError(f"{path}: line {number}: the same token as in a line before", field="tokens_file")
        found[caller.credential] = caller
    return found


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} cannot be read: {error}", field="tokens_file") from None
    for number, line in enumerate(text.splitlines(), start=1):
        if not _is_comment(line):
            yield number, line


def _parsed(line: str, default: Caller) -> Caller:
    """The caller of a line; raises ValueError, which never quotes the line."""
    first, *rest = line.split()
    if not _HASH.fullmatch(first):
        raise ValueError(_PLAIN if _is_plain(line) else _EXPECTED)
    values = dict(pair.split("=", 1) for pair in rest if "=" in pair)
    if len(values) != len(rest) or not {"name", "scopes"} <= values.keys():
        raise ValueError(_EXPECTED)
    caller = replace(
        default,
        name=_name(values.pop("name")),
        scopes=parse_scopes(values.pop("scopes")),
        level=parse_level(values.pop("level", default.level.name)),
        credential=bytes.fromhex(first.removeprefix(PREFIX)),
    )
    return replace(caller, allowance=_allowance(values, default.allowance))


def parse_scopes(text: str) -> frozenset[Scope]:
    """Scopes joined by commas; raises ValueError."""
    names = {scope.value: scope for scope in Scope}
    asked = [name for name in text.split(",") if name]
    if not asked or any(name not in names for name in asked):
        raise ValueError(f"expected scopes of {', '.join(names)}, joined by commas")
    return frozenset(names[name] for name in asked)


def parse_level(text: str) -> DisclosureLevel:
    """A level by its name; raises ValueError."""
    try:
        return DisclosureLevel[text.upper()]
    except KeyError:
        raise ValueError(f"expected a level of {', '.join(one.name.lower() for one in DisclosureLevel)}") from None


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError("expected a name of at most 64 letters, digits and . _ - @")
    return text


def _allowance(values: Mapping[str, str], default: Allowance) -> Allowance:
    """What is left of a line's pairs: bounds by name."""
    kinds: dict[str, Any] = {"rate": float, "explanations": int, "examples": int}
    if not values.keys() <= kinds.keys():
        raise ValueError(_EXPECTED)
    try:
        found = {name: kinds[name](text) for name, text in values.items()}
    except ValueError:
        raise ValueError("expected numbers for rate, explanations and examples") from None
    if any(not 0 <= value <= 1e9 for value in found.values()):
        raise ValueError("expected 0 (no bound) or more for rate, explanations and examples")
    return replace(default, **found)


def upgraded(text: str) -> tuple[str, list[int]]:
    """The text of a file of older versions with hashes in place of tokens.

    Returns:
        The text, and the numbers of the lines whose tokens are so short that they might be guessed from a hash.

    Raises:
        ValueError: The scopes of a plain token are unknown.
    """
    lines, weak = [], []
    for number, line in enumerate(text.splitlines(), start=1):
        if not _is_comment(line) and _is_plain(line):
            token, scopes = line.split()
            line = token_line(token, f"line-{number}", scopes, {})
            weak += [number] if len(token) < _LONG_ENOUGH else []
        lines.append(f"{line}\n")
    return "".join(lines), weak


def _is_comment(line: str) -> bool:
    return not line.strip() or line.strip().startswith("#")


def _is_plain(line: str) -> bool:
    """Whether a line is of the form of older versions, ``TOKEN scope,scope``."""
    words = line.split()
    return len(words) == 2 and "=" not in words[1]
