"""What a user's own code raises, as an error that names the key of the spec it stands under."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from proponent.errors import ProponentError, SpecError


@contextmanager
def blame(what: str, field: str, *, advice: str = "") -> Iterator[None]:
    """Raises what a user's code raises as a SpecError; this package's own errors and lack of memory pass.

    Args:
        what: What failed, for people.
        field: The key of the spec.
        advice: What to do instead.
    """
    try:
        yield
    except (ProponentError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # the user's code may raise anything
        then = f"; {advice}" if advice else ""
        raise SpecError(f"{what}: {type(error).__name__}: {error}{then}", field=field) from error
