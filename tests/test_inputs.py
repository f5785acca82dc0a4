"""Nothing a caller sends gets past decoding but a finite tensor of the right shape; all else says what is wrong."""

from __future__ import annotations

import io
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from broken_images import broken_image
from proponent.datasets.image_folder import open_folder
from proponent.datasets.transforms import pixels
from proponent.errors import InvalidInputError
from proponent.signature import InputSignature
from proponent.worker.inputs import MAX_PIXELS, decode_image, image_tensor, raw_tensor

GREY = InputSignature((1, 5, 7), "L", (7, 5))
COLOUR = InputSignature((3, 5, 7), "RGB", (7, 5))
VALUES = np.arange(35, dtype=np.uint8).reshape(5, 7) * 7


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind)
    return buffer.getvalue()


def grey() -> bytes:
    return encoded(Image.fromarray(VALUES))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that promises many pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


def refused(call: Any, reason: str, field: str) -> str:
    with pytest.raises(InvalidInputError) as caught:
        call()
    assert (caught.value.reason, caught.value.field) == (reason, field)
    return caught.value.message


def test_a_png_arrives_pixel_by_pixel() -> None:
    tensor = image_tensor(grey(), GREY, pixels)
    assert tensor.dtype == torch.float32
    torch.testing.assert_close(tensor, torch.from_numpy(VALUES.astype(np.float32) / 255)[None], rtol=0, atol=1e-7)


def test_a_jpeg_arrives_as_pillow_reads_it() -> None:
    colour = np.stack([VALUES, VALUES[::-1], VALUES[:, ::-1]], axis=2)
    data = encoded(Image.fromarray(colour), "JPEG")
    expected = np.asarray(Image.open(io.BytesIO(data))).transpose(2, 0, 1).astype(np.float32) / 255
    torch.testing.assert_close(image_tensor(data, COLOUR, pixels), torch.from_numpy(expected), rtol=0, atol=1e-7)


@pytest.mark.parametrize("data", [b"", b"hello", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", bytes(1000)])
def test_what_is_no_image_says_so(data: bytes) -> None:
    message = refused(lambda: decode_image(data, "L"), "IMAGE_UNREADABLE", "encoded_image")
    assert message == f"{len(data)} bytes are not a PNG or JPEG image"


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "WEBP"])
def test_other_formats_are_not_even_tried(kind: str) -> None:
    data = encoded(Image.fromarray(np.stack([VALUES] * 3, axis=2)), kind)
    refused(lambda: decode_image(data, "RGB"), "IMAGE_UNREADABLE", "encoded_image")


def test_a_truncated_png_is_unreadable_wherever_it_ends() -> None:
    data = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)))
    pixels_end = len(data) - 20  # after it come two checksums and the end mark: all pixels are there
    for end in range(0, pixels_end, 7):
        refused(lambda end=end: decode_image(data[:end], "L"), "IMAGE_UNREADABLE", "encoded_image")


def test_a_truncated_jpeg_is_unreadable() -> None:
    data = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)), "JPEG")
    message = refused(lambda: decode_image(data[: len(data) // 2], "L"), "IMAGE_UNREADABLE", "encoded_image")
    assert message.startswith("JPEG image is truncated or damaged")


@settings(deadline=None)
@given(st.data())
def test_damaged_bytes_give_an_image_or_the_one_error(data: st.DataObject) -> None:
    whole = bytearray(data.draw(st.sampled_from([grey(), encoded(Image.fromarray(VALUES), "JPEG")])))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        tensor = image_tensor(bytes(whole), GREY, pixels)
    except InvalidInputError as error:
        assert error.field == "encoded_image" and error.reason.startswith("IMAGE_")
    else:
        assert tensor.shape == (1, 5, 7)


@pytest.mark.parametrize("side", [4097, 10_000, 20_000, 2**31 - 1])
def test_an_image_bomb_is_refused_by_its_header_alone(side: int) -> None:
    """Sides below, between and above the sizes at which Pillow itself warns and refuses."""
    assert len(bomb(side, side)) < 100
    message = refused(lambda: decode_image(bomb(side, side), "L"), "IMAGE_TOO_LARGE", "encoded_image")
    assert "pixels" in message


def test_the_largest_image_allowed_is_allowed() -> None:
    image = Image.new("L", (4096, 4096), 3)
    assert image.width * image.height == MAX_PIXELS
    assert decode_image(encoded(image), "L").size == (4096, 4096)


def test_text_that_unpacks_to_too_much_is_unreadable() -> None:
    text = chunk(b"zTXt", b"k\x00\x00" + zlib.compress(bytes(80_000_000), 9))
    data = grey()
    refused(lambda: decode_image(data[:33] + text + data[33:], "L"), "IMAGE_UNREADABLE", "encoded_image")


@pytest.mark.parametrize(
    ("mode", "channels"), [("RGB", "3 channels"), ("RGBA", "4 channels"), ("LA", "2 channels"), ("P", "1 channel")]
)
def test_another_mode_names_both_modes(mode: str, channels: str) -> None:
    image = Image.fromarray(VALUES).convert(mode)
    message = refused(lambda: decode_image(encoded(image), "L"), "IMAGE_WRONG_CHANNELS", "encoded_image")
    assert message.startswith(f"image has mode {mode} ({channels}") and "expected mode L (1 channel" in message


def test_another_size_names_both_sizes() -> None:
    data = encoded(Image.fromarray(VALUES.T.copy()))
    message = refused(lambda: image_tensor(data, GREY, pixels), "IMAGE_WRONG_SIZE", "encoded_image")
    assert "5x7 pixels" in message and "[1, 7, 5]" in message and "expected shape [1, 5, 7]" in message
    assert "(an image of 7x5 pixels)" in message


@pytest.mark.parametrize("error", [RuntimeError, ValueError, TypeError, IndexError])
def test_a_transform_that_cannot_take_the_image_blames_its_size(error: type[Exception]) -> None:
    def failing(_: Image.Image) -> torch.Tensor:
        raise error("no such crop")

    message = refused(lambda: image_tensor(grey(), GREY, failing), "IMAGE_WRONG_SIZE", "encoded_image")
    assert "no such crop" not in message and "[1, 5, 7]" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_transform_that_makes_nan_is_refused(value: float) -> None:
    def nan(image: Image.Image) -> torch.Tensor:
        return pixels(image) * value

    refused(lambda: image_tensor(grey(), GREY, nan), "IMAGE_NOT_FINITE", "encoded_image")


@settings(deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=35, max_size=35))
def test_a_tensor_arrives_bit_by_bit(values: list[float]) -> None:
    found = raw_tensor([1, 5, 7], "float32", struct.pack("<35f", *values), GREY)
    assert found.flatten().tolist() == values
    found.add_(1)  # it owns its memory


@pytest.mark.parametrize("dtype", ["float64", "", "Float32", ">f4"])
def test_another_dtype_is_refused(dtype: str) -> None:
    message = refused(lambda: raw_tensor([1, 5, 7], dtype, bytes(140), GREY), "TENSOR_WRONG_DTYPE", "tensor.dtype")
    assert repr(dtype) in message and "'float32'" in message


@pytest.mark.parametrize("shape", [[], [35], [1, 7, 5], [1, 1, 5, 7], [-1, 5, 7], [1, 5, 2**62]])
def test_another_shape_is_refused(shape: list[int]) -> None:
    message = refused(lambda: raw_tensor(shape, "float32", bytes(140), GREY), "TENSOR_WRONG_SHAPE", "tensor.shape")
    assert str(shape) in message and "[1, 5, 7]" in message


@pytest.mark.parametrize("length", [0, 139, 141, 280])
def test_another_length_is_refused(length: int) -> None:
    message = refused(
        lambda: raw_tensor([1, 5, 7], "float32", bytes(length), GREY), "TENSOR_WRONG_SHAPE", "tensor.data"
    )
    assert message == f"tensor has {length} bytes, expected 140"


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_counted(bad: float) -> None:
    data = struct.pack("<35f", *([bad, bad] + [1.0] * 33))
    message = refused(lambda: raw_tensor([1, 5, 7], "float32", data, GREY), "TENSOR_NOT_FINITE", "tensor.data")
    assert message == "tensor has 2 values that are NaN or infinite"


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_its_camera_says(kind: str, orientation: int, tmp_path: Path) -> None:
    """Whatever a caller sends and whatever a folder of files holds: the model sees what a viewer shows."""
    stored = np.kron(np.arange(6, dtype=np.uint8).reshape(2, 3) * 40, np.ones((8, 8), np.uint8))
    turned = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.T,
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].T,
        8: np.rot90(stored),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(stored).save(buffer, format=kind, exif=exif, **({"quality": 100} if kind == "JPEG" else {}))
    height, width = turned.shape
    tensor = image_tensor(buffer.getvalue(), InputSignature((1, height, width), "L", (width, height)), pixels)
    np.testing.assert_allclose(tensor[0].numpy() * 255, turned, atol=0 if kind == "PNG" else 2)
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / f"picture.{kind.lower()}").write_bytes(buffer.getvalue())
    torch.testing.assert_close(pixels(open_folder(tmp_path)[0][0]), tensor, rtol=0, atol=0)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=60))
def test_a_damaged_note_of_the_camera_turns_nothing(note: bytes) -> None:
    buffer = io.BytesIO()
    Image.fromarray(VALUES).save(buffer, format="PNG", exif=b"Exif\x00\x00" + b"II*\x00\x08\x00\x00\x00" + note)
    decoded = decode_image(buffer.getvalue(), "L")
    assert {decoded.width, decoded.height} == {5, 7}


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_whatever_is_wrong_with_an_image_is_bad_input(mode: str) -> None:
    """Not another error, and no warning that would let callers fill the worker's log."""
    decoded = 0
    for seed in range(1000):
        try:
            decoded += decode_image(broken_image(random.Random(f"{mode}:{seed}")), mode).size is not None
        except InvalidInputError as error:
            assert error.field == "encoded_image", seed
    assert decoded > 10
