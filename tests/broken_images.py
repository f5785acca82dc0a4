"""Images that are not what they say: files of many formats, cut, changed and spliced; small ones that seem huge.

Each is made of a generator of random numbers alone, so that it can be made again.
"""

from __future__ import annotations

import functools
import io
import random
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

_EDGES = (0, 1, 2, 7, 8, 127, 128, 255, 256, 32767, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
_MODES = ("L", "RGB", "RGBA", "P", "1", "I;16")
_FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "ICO", "TGA")


def broken_image(random_: random.Random) -> bytes:
    """A file: now and then a sound one, mostly one that was."""
    if random_.random() < 0.15:
        return random_.choice((bomb, png_of_chunks))(random_)
    data = random_.choice(sound_images())
    for _ in range(random_.choice((0, 1, 1, 1, 2, 5))):
        data = mutated(data, random_)
    return data


def mutated(data: bytes, random_: random.Random) -> bytes:
    """The same bytes with one thing changed."""
    return random_.choice(_MUTATIONS)(data, random_)


@functools.cache
def sound_images() -> Sequence[bytes]:
    """Small files of each format and mode that Pillow writes, some with EXIF, text, animation or interlacing."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    found = []
    for mode in _MODES:
        image = Image.fromarray(pixels).convert("I" if mode == "I;16" else mode)
        found += [data for name in _FORMATS if (data := _saved(image, name))]
    exif = Image.Exif()
    exif[0x0112] = 6
    gray = Image.fromarray(pixels).convert("L")
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "words" * 40, zip=True)
    pngs: Sequence[dict[str, Any]] = ({"exif": exif}, {"pnginfo": text}, {"save_all": True, "append_images": [gray]})
    jpegs: Sequence[dict[str, Any]] = ({"exif": exif}, {"progressive": True}, {"subsampling": 2}, {"quality": 1})
    found += [_saved(gray, "PNG", **each) for each in pngs]
    return found + [_saved(gray, "JPEG", **each) for each in jpegs]


def bomb(random_: random.Random) -> bytes:
    """A small file that says it is huge, or becomes so when it is unpacked."""
    width, height = (random_.choice(_EDGES) for _ in range(2))
    header = struct.pack(">IIBBBBB", width, height, random_.choice((1, 8, 16)), random_.choice((0, 2, 3, 6)), 0, 0, 0)
    zeros = _zeros(random_.choice((100, 10**6, 10**7)))
    kind = random_.choice((b"IDAT", b"zTXt", b"iCCP", b"iTXt"))
    body = zeros if kind == b"IDAT" else b"name\0\0" + (b"\0\0\0" if kind == b"iTXt" else b"") + zeros
    chunks = [(b"IHDR", header), (kind, body), (b"IDAT", zlib.compress(bytes(72))), (b"IEND", b"")]
    if random_.random() < 0.3:
        return _jpeg_of_size(width & 0xFFFF, height & 0xFFFF)
    return _png(chunks)


@functools.cache
def _zeros(count: int) -> bytes:
    return zlib.compress(bytes(count))


def png_of_chunks(random_: random.Random) -> bytes:
    """A PNG whose chunks are whole by their checksums but not by their content."""
    depth, colour, interlace = random_.randrange(17), random_.randrange(8), random_.randrange(2)
    header = struct.pack(">IIBBBBB", 8, 8, depth, colour, 0, 0, interlace)
    names = (
        b"IDAT",
        b"PLTE",
        b"tRNS",
        b"gAMA",
        b"cHRM",
        b"sRGB",
        b"iCCP",
        b"eXIf",
        b"pHYs",
        b"tIME",
        b"acTL",
        b"fcTL",
    )
    inner = [(random_.choice(names), random_.randbytes(random_.choice((0, 1, 3, 4, 9, 32)))) for _ in range(4)]
    data = (b"IDAT", zlib.compress(random_.randbytes(random_.choice((0, 72, 136, 1000)))))
    chunks = [(b"IHDR", header), *inner, data, (b"IEND", b"")]
    if random_.random() < 0.3:
        random_.shuffle(chunks)
    return _png(chunks)


def _png(chunks: Sequence[tuple[bytes, bytes]]) -> bytes:
    parts = [struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _jpeg_of_size(width: int, height: int) -> bytes:
    """A sound JPEG whose frame says another size."""
    data = _saved(Image.new("L", (8, 8)), "JPEG")
    place = data.index(b"\xff\xc0") + 5
    return data[:place] + struct.pack(">HH", height, width) + data[place + 4 :]


def _saved(image: Image.Image, name: str, **options: Any) -> bytes:
    out = io.BytesIO()
    try:
        image.save(out, name, **options)
    except (OSError, ValueError):  # the format does not have the mode
        return b""
    return out.getvalue()


def _flipped(data: bytes, random_: random.Random) -> bytes:
    if not data:
        return data
    place = random_.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << random_.randrange(8)]) + data[place + 1 :]


def _cut(data: bytes, random_: random.Random) -> bytes:
    return data[: random_.randrange(len(data) + 1)]


def _without_part(data: bytes, random_: random.Random) -> bytes:
    start = random_.randrange(len(data) + 1)
    return data[:start] + data[start + random_.choice((1, 4, 16, 100)) :]


def _with_noise(data: bytes, random_: random.Random) -> bytes:
    start = random_.randrange(len(data) + 1)
    return data[:start] + random_.randbytes(random_.choice((1, 4, 64))) + data[start:]


def _with_number(data: bytes, random_: random.Random) -> bytes:
    """Four bytes become a number at the edge of what fits."""
    start = random_.randrange(len(data) + 1)
    return data[:start] + struct.pack(random_.choice("<>") + "I", random_.choice(_EDGES)) + data[start + 4 :]


def _doubled(data: bytes, random_: random.Random) -> bytes:
    start, end = sorted(random_.randrange(len(data) + 1) for _ in range(2))
    return data[:end] + data[start:end] + data[end:]


_MUTATIONS: Sequence[Callable[[bytes, random.Random], bytes]] = (
    _flipped,
    _flipped,
    _cut,
    _without_part,
    _with_noise,
    _with_number,
    _doubled,
)
