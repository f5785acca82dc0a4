"""Tokens files for tests: lines as ``proponent token`` makes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from proponent.gateway.auth import Authenticator
from proponent.gateway.auth.token_file import token_line


def write_tokens(path: Path, tokens: Mapping[str, str]) -> Path:
    """A file of tokens, each with its scopes and what else its line says: ``{"alpha": "predict level=ranks"}``."""
    lines = []
    for number, (token, words) in enumerate(tokens.items()):
        scopes, *extra = words.split()
        lines.append(token_line(token, f"caller-{number}", scopes, dict(pair.split("=", 1) for pair in extra)))
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def knowing(path: Path, tokens: Mapping[str, str]) -> Authenticator:
    """An authenticator that knows these tokens, by a file."""
    return Authenticator(tokens_file=write_tokens(path, tokens))
