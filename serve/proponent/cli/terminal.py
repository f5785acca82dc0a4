"""Explanations for people in a terminal: tables, with images in half blocks, texts, and in what rows differ."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from google.protobuf.json_format import MessageToDict
from PIL import Image
from rich.console import Console
from rich.table import Table
from rich.text import Text

from proponent.display.contents import cells
from proponent.display.marks import Word, parts, strongest, together
from proponent.errors import printable
from proponent.v1 import explanation_pb2 as pb

MEASURE_NAMES = {
    pb.MEASURE_INFLUENCE: "influence",
    pb.MEASURE_THETA_RELATIF: "theta-RelatIF",
    pb.MEASURE_L_RELATIF: "l-RelatIF",
}
_WIDTH = 12
_LONGEST_TEXT = 280
_SHADES = " .:-=+*#%@"
_STRENGTHS = ("", "{colour}", "underline {colour}", "bold {colour}", "bold reverse {colour}")
_STYLES = {
    sign * step: style.format(colour=colour)
    for sign, colour in ((1, "blue"), (-1, "dark_orange"))
    for step, style in enumerate(_STRENGTHS)
}
"""By the strength of a mark."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def one_line(text: str) -> str:
    """An id or a label as a terminal may be given it: on one line, and nothing in it acts."""
    return printable(text, keep="")


def spreadsheet_cell(value: object) -> object:
    """A value as a spreadsheet may be given it: an apostrophe before a text that it would compute."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def draw(png: bytes, *, width: int = _WIDTH, colour: bool = True) -> Text:
    """An image as text: two pixels a character where there is colour, else one character of a grey scale."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    height = max(2, round(image.height * width / image.width / 2) * 2)
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BOX), dtype=int)
    return _half_blocks(pixels) if colour else _characters(pixels)


def draw_input(request: pb.ExplainRequest, *, colour: bool = True) -> Text:
    """What is asked about."""
    if request.encoded_image:
        return draw(request.encoded_image, colour=colour)
    return (
        Text(shortened(request.text)) if request.text else Text("\n").join(row_lines(MessageToDict(request.record)))
    )


def _half_blocks(pixels: np.ndarray) -> Text:
    text = Text(no_wrap=True)
    for y in range(0, len(pixels), 2):
        for upper, lower in zip(pixels[y], pixels[y + 1], strict=True):
            text.append("▀", style=f"rgb({upper[0]},{upper[1]},{upper[2]}) on rgb({lower[0]},{lower[1]},{lower[2]})")
        text.append("\n" if y + 2 < len(pixels) else "")
    return text


def _characters(pixels: np.ndarray) -> Text:
    grey = pixels.mean(axis=2)
    pairs = grey.reshape(len(grey) // 2, 2, -1).mean(axis=1)
    levels = (pairs / 256 * len(_SHADES)).astype(int)
    return Text("\n".join("".join(_SHADES[level] for level in row) for row in levels), no_wrap=True)


@dataclass(frozen=True)
class Beside:
    """What training examples are shown beside.

    Attributes:
        colour: Whether the terminal has colours.
        record: The row asked about; rows show in what they differ from it.
        words: What the words of texts carry, by example.
    """

    colour: bool
    record: Mapping[str, object] | None
    words: Mapping[str, pb.Highlight]


def print_explanation(
    console: Console,
    reply: pb.ExplainResponse,
    asked: pb.ExplainRequest,
    *,
    merged: bool = False,
    words: pb.HighlightExamplesResponse | None = None,
) -> None:
    """The prediction, and for each measure a table of proponents and opponents, or of both by rank.

    Words are marked where they are given: those of the text asked about by what they carry of all proponents.
    """
    best = reply.prediction.probabilities[reply.prediction.class_id]
    label = Text(one_line(reply.prediction.label), style="bold")
    console.print(Text.assemble("prediction: ", label, f" ({best:.1%})"))
    weighed = {each.example_id: each for each in words.highlights} if words else {}
    if weighed:
        console.print(Text("\n").join(_asked_words(asked.text, reply, weighed)))
    record = MessageToDict(asked.record) if asked.HasField("record") else None
    beside = Beside(console.color_system is not None, record, weighed)
    for result in reply.results:
        console.print((_merged_table if merged else _table)(result, beside))
    for notice in reply.notices:
        console.print(f"note: {notice.message}", markup=False)


def _asked_words(text: str, reply: pb.ExplainResponse, weighed: Mapping[str, pb.Highlight]) -> list[Text]:
    """The text asked about, marked by what its words carry of the influence of all proponents together."""
    listed = dict.fromkeys(found.example_id for result in reply.results for found in result.proponents)
    return marked(text, together(weighed[name].asked for name in listed if name in weighed))


def _table(result: pb.MeasureResult, beside: Beside) -> Table:
    table = Table(title=MEASURE_NAMES[result.measure], title_justify="left")
    for name in ("", "proponent", "label", "score", "opponent", "label", "score"):
        table.add_column(name, justify="right" if name in ("", "score") else "left")
    for rank in range(max(len(result.proponents), len(result.opponents))):
        pro, con = (_cells(end, rank, beside) for end in (result.proponents, result.opponents))
        table.add_row(str(rank + 1), *pro, *con, end_section=True)
    return table


def _merged_table(result: pb.MeasureResult, beside: Beside) -> Table:
    table = Table(title=MEASURE_NAMES[result.measure], title_justify="left")
    for name in ("", "", "example", "label", "score"):
        table.add_column(name, justify="left" if name in ("example", "label") else "right")
    sides = [("for", result.proponents), ("against", result.opponents)]
    ranked = sorted((each.rank, name, each) for name, side in sides for each in side)
    for rank, name, influence in ranked:
        table.add_row(str(rank), name, *_cells([influence], 0, beside), end_section=True)
    return table


def _cells(influences: Sequence[pb.Influence], rank: int, beside: Beside) -> tuple[Text, Text, str]:
    if rank >= len(influences):
        return Text(), Text(), ""
    influence = influences[rank]
    shown = [Text(one_line(influence.example_id)), *_contents(influence, beside)]
    return Text("\n").join(shown), Text(one_line(influence.label)), f"{influence.score:+.4g}"


def _contents(influence: pb.Influence, beside: Beside) -> list[Text]:
    """What shows an example: its picture, its text, or its row."""
    if influence.thumbnail:
        return [draw(influence.thumbnail, colour=beside.colour)]
    if influence.text:
        words = beside.words.get(influence.example_id)
        return marked(influence.text, words.example) if words else [Text(shortened(influence.text))]
    return row_lines(MessageToDict(influence.record), beside.record) if influence.HasField("record") else []


def marked(text: str, words: Sequence[Word]) -> list[Text]:
    """A text whose words are marked by their weights, and a line that says the largest in words."""
    shown = Text()
    for part in parts(text, words):
        shown.append(one_line(re.sub(r"\s", " ", part.text)), style=_STYLES[part.step])
    shown.truncate(_LONGEST_TEXT, overflow="ellipsis")
    said = strongest(text, words)
    return [shown, Text(f"carried by {said}", style="dim")] if said else [shown]


def shortened(text: str) -> str:
    """A text as a table may be given it: nothing in it acts, and not more than a few lines."""
    seen = one_line(" ".join(text.split()))
    return seen if len(seen) <= _LONGEST_TEXT else f"{seen[:_LONGEST_TEXT]}…"


def row_lines(record: Mapping[str, object], asked: Mapping[str, object] | None = None) -> list[Text]:
    """A line for each value that differs from the row asked about, and one for all others."""
    found = cells(record, asked)
    differing = [
        Text.assemble(f"{one_line(each.column)}: ", (one_line(each.value), "bold"), f" (not {one_line(each.asked)})")
        for each in found
        if each.asked is not None
    ]
    others = [f"{one_line(each.column)} {one_line(each.value)}" for each in found if each.asked is None]
    if not others:
        return differing
    return [*differing, Text(f"{'same: ' if asked is not None else ''}{', '.join(others)}", style="dim")]
