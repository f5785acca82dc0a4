"""What a demo is about: which preset is trained, on which data, and what is asked about."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from proponent.client.inputs import Input
from proponent.errors import NotFoundError
from proponent.text import Text


@dataclass(frozen=True)
class Subject:
    """One demo.

    Attributes:
        model: The preset, which names the model too.
        data: What it is trained on, in words.
        noun: What an input is, in words.
        held_out: Makes an input that the model has not seen.
        training: Further options of ``proponent train``.
    """

    model: str
    data: str
    noun: str
    held_out: Callable[[], Input]
    training: str = ""


def pictures() -> Subject:
    """Handwritten digits."""
    return Subject("digits", "scikit-learn's handwritten digits", "A digit", _digit)


def texts(data_root: str | None) -> Subject:
    """Film reviews where there are any, else sentences drawn from a seed."""
    from proponent.datasets import sst2

    options = "--epochs 3 --limit 4000" + (f" --data-root {data_root}" if data_root else "")
    try:
        [review, _] = sst2.dev(data_root, limit=1)[0]
    except NotFoundError:
        said = "sentences that are drawn from a seed (no SST-2 below --data-root or PROPONENT_DATA)"
        return Subject("sentences", said, "A sentence", _sentence)
    return Subject("sst2", "4,000 sentences of film reviews (SST-2)", "A sentence", lambda: Text(review), options)


def rows(data_root: str | None) -> Subject:
    """The census where there is one, else loans drawn from a seed."""
    from proponent.datasets import adult

    options = "--limit 4000" + (f" --data-root {data_root}" if data_root else "")
    try:
        [row, _] = adult.test(data_root, limit=1)[0]
    except NotFoundError:
        said = "loans that are drawn from a seed (no Adult below --data-root or PROPONENT_DATA)"
        return Subject("loans", said, "A row", _loan)
    return Subject("adult", "4,000 rows of the census (Adult)", "A row", lambda: row, options)


def _digit() -> bytes:
    from proponent.datasets import digits

    image, _ = digits.test()[0]
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _sentence() -> Text:
    from proponent.datasets import sentences

    return Text(sentences.test()[0][0])


def _loan() -> Mapping[str, object]:
    from proponent.datasets import loans

    return loans.test()[0][0]
