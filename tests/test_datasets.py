"""Datasets: ids outlive limits and splits, pixels arrive unchanged, and missing data is never papered over."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from proponent.datasets import (
    ImageDataset,
    cifar10,
    digits,
    image_folder,
    materialise,
    mnist,
    motorbike_fruit,
    npz,
    synthetic,
)
from proponent.datasets.arrays import ArrayImages, stratified_split
from proponent.datasets.transforms import converted, normalized, pixels
from proponent.errors import InvalidInputError, NotFoundError


def ids(dataset: ImageDataset) -> list[str]:
    return [dataset.example_id(index) for index in range(len(dataset))]


def noise(*shape: int) -> np.ndarray:
    return np.random.RandomState(0).randint(0, 256, shape).astype(np.uint8)


def write_idx(path: Path, array: np.ndarray, compress: bool = False) -> None:
    content = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if compress else content)


# digits and the split


def test_digits_split_is_a_partition_with_unique_ids() -> None:
    train, test = digits.train(), digits.test()
    assert (len(train), len(test)) == (1437, 360)
    assert set(ids(train)).isdisjoint(ids(test))
    assert len({*ids(train), *ids(test)}) == 1797


def test_digits_split_is_frozen() -> None:
    assert ids(digits.train())[:3] == ["digits-1514", "digits-1679", "digits-0713"]
    assert ids(digits.test())[:3] == ["digits-0143", "digits-0070", "digits-0495"]


def test_digits_id_leads_to_the_bundled_image() -> None:
    dataset = digits.train()
    image, label = dataset[5]
    number = int(dataset.example_id(5).removeprefix("digits-"))
    bundled = load_digits()
    assert image.mode == "L"
    assert np.array_equal(np.asarray(image), np.round(bundled.images[number] * 255 / 16))
    assert label == bundled.target[number]
    assert dataset.source(5).endswith(f"#{number}")


def test_limit_keeps_the_first_examples_and_their_ids() -> None:
    assert ids(digits.train(limit=40)) == ids(digits.train())[:40]


def test_stratified_split_keeps_class_shares() -> None:
    labels = np.repeat([0, 1, 2], [100, 50, 10])
    train, held_out = stratified_split(labels, 32, seed=3)
    assert np.bincount(labels[held_out]).tolist() == [20, 10, 2]
    assert sorted([*train, *held_out]) == list(range(160))


# missing data


@pytest.mark.parametrize(
    ("factory", "files"),
    [
        (mnist.train, ["MNIST/raw/train-images-idx3-ubyte", "MNIST/raw/train-images-idx3-ubyte.gz"]),
        (mnist.test, ["MNIST/raw/t10k-images-idx3-ubyte"]),
        (cifar10.lossless, ["cifar10_lossless_4k1k.npz"]),
        (cifar10.jpeg, ["cifar10_jpeg.tar"]),
        (motorbike_fruit.train, ["motorbike_fruit_30px.npz"]),
    ],
)
def test_missing_file_names_every_path_and_the_remedy(
    factory: Callable[[str], object], files: list[str], tmp_path: Path
) -> None:
    with pytest.raises(NotFoundError) as caught:
        factory(str(tmp_path))
    for file in files:
        assert str(tmp_path / file) in caught.value.message
    assert "--data-root" in caught.value.message
    assert "PROPONENT_DATA" in caught.value.message
    assert caught.value.reason == "DATA_MISSING"


def test_no_root_at_all_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROPONENT_DATA", raising=False)
    with pytest.raises(NotFoundError, match=r"No data root is set.*cifar10_jpeg\.tar.*--data-root"):
        cifar10.jpeg()


# files written here


@pytest.mark.parametrize("compress", [False, True])
def test_mnist_reads_plain_and_gzip_files(tmp_path: Path, compress: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = noise(5, 28, 28), np.arange(5, dtype=np.uint8)
    suffix = ".gz" if compress else ""
    write_idx(tmp_path / f"MNIST/raw/train-images-idx3-ubyte{suffix}", images, compress)
    write_idx(tmp_path / f"MNIST/raw/train-labels-idx1-ubyte{suffix}", labels, compress)
    monkeypatch.setenv("PROPONENT_DATA", str(tmp_path))
    dataset = mnist.train(limit=4)
    assert ids(dataset) == [f"mnist-train-{number:04d}" for number in range(4)]
    assert np.array_equal(np.asarray(dataset[3][0]), images[3])
    assert dataset[3][1] == 3


def test_mnist_refuses_a_truncated_file(tmp_path: Path) -> None:
    path = tmp_path / "MNIST/raw/train-images-idx3-ubyte"
    write_idx(path, noise(5, 28, 28))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InvalidInputError, match="holds 3919 values, expected 3920"):
        mnist.train(str(tmp_path))


def write_tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for label, name in enumerate(cifar10.CLASS_NAMES):
            for number in range(2):
                buffer = io.BytesIO()
                Image.new("RGB", (32, 32), (20 * label, 0, 0)).save(buffer, "JPEG", quality=95)
                member = tarfile.TarInfo(f"cifar10jpg/train/{name}/{number:04d}.jpg")
                member.size = buffer.tell()
                buffer.seek(0)
                archive.addfile(member, buffer)


def test_jpeg_copy_is_read_in_place_and_balanced(tmp_path: Path) -> None:
    write_tar(tmp_path / cifar10.JPEG_FILE)
    dataset = cifar10.jpeg(str(tmp_path), limit=10)
    assert [dataset[index][1] for index in range(10)] == list(range(10))
    assert dataset.example_id(3) == "cifar10jpg/train/cat/0000"
    assert dataset.source(3).endswith("cifar10_jpeg.tar#cifar10jpg/train/cat/0000.jpg")
    assert abs(dataset[7][0].getpixel((5, 5))[0] - 140) <= 2


def test_jpeg_copy_without_the_split_is_an_error(tmp_path: Path) -> None:
    write_tar(tmp_path / cifar10.JPEG_FILE)
    with pytest.raises(InvalidInputError, match="holds no images in cifar10jpg/test"):
        cifar10.jpeg(str(tmp_path), split="test")


def test_image_folder_orders_classes_and_names_broken_files(tmp_path: Path) -> None:
    for name in ("zebra", "ant"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name / "b.png")
    (tmp_path / "ant" / "a.PNG").write_bytes(b"no image")
    dataset = image_folder.open_folder(tmp_path)
    assert dataset.class_names == ["ant", "zebra"]
    assert ids(dataset) == ["ant/a.PNG", "ant/b.png", "zebra/b.png"]
    assert dataset[2][1] == 1
    with pytest.raises(InvalidInputError, match=r"a\.PNG"):
        dataset[0]


def test_image_folder_refuses_missing_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="nowhere"):
        image_folder.open_folder(tmp_path / "nowhere")
    with pytest.raises(InvalidInputError, match="holds no images"):
        image_folder.open_folder(tmp_path)


def test_npz_reads_named_arrays_and_refuses_missing_keys(tmp_path: Path) -> None:
    path = tmp_path / "cells.npz"
    np.savez(path, pictures=noise(3, 6, 6), kinds=np.array([0, 2, 1]))
    dataset = npz.open_file(str(path), images="pictures", labels="kinds")
    assert dataset.class_names == ["0", "1", "2"]
    assert ids(dataset) == ["cells-0000", "cells-0001", "cells-0002"]
    with pytest.raises(InvalidInputError, match=r"cells\.npz lacks a key: .*x"):
        npz.open_file(str(path))


def test_npz_never_unpickles(tmp_path: Path) -> None:
    path = tmp_path / "objects.npz"
    np.savez(path, x=np.array([{}], dtype=object), y=np.array([0]))
    with pytest.raises(InvalidInputError, match="is not a readable"):
        npz.open_file(str(path))


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (noise(2, 4, 4).astype(np.float32), np.array([0, 1]), "expected uint8"),
        (noise(2, 4, 4), np.array([0]), "one per image"),
        (noise(2, 4, 4), np.array([0, 2]), r"span 0\.\.2, expected 0\.\.1"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(images: np.ndarray, labels: np.ndarray, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        ArrayImages(images, labels, ["a", "b"], name="n", file="f")


# synthetic


def test_shapes_depend_on_the_seed_alone() -> None:
    first, again, other = (synthetic.shapes(count=12, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.images, again.images)
    assert not np.array_equal(first.images, other.images)
    assert set(ids(first)).isdisjoint(ids(other))


def test_flipped_tells_exactly_which_labels_changed() -> None:
    clean = synthetic.shapes(count=50, classes=3)
    noisy = synthetic.shapes(count=50, classes=3, flip_fraction=0.2)
    assert np.array_equal(clean.images, noisy.images)
    assert np.flatnonzero(noisy.labels != noisy.clean_labels).tolist() == noisy.flipped.tolist()
    assert len(noisy.flipped) == 10
    assert np.array_equal(noisy.clean_labels, clean.labels)


# transforms and tensors


def test_pixels_keeps_grey_and_turns_the_rest_into_rgb() -> None:
    image = Image.fromarray(noise(5, 7, 3))
    tensor = pixels(image)
    assert tensor.dtype == torch.float32
    assert torch.equal(tensor, torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255)
    assert pixels(image.convert("L")).shape == (1, 5, 7)
    assert pixels(image.convert("RGBA")).shape == (3, 5, 7)


def test_converted_leaves_fitting_images_alone_and_fits_others() -> None:
    grey = Image.fromarray(noise(8, 6))
    transform = converted("L", [8, 6])
    assert torch.equal(transform(grey), pixels(grey))
    assert transform(Image.new("RGBA", (20, 30))).shape == (1, 8, 6)


def test_normalized_shifts_and_scales_each_channel() -> None:
    image = Image.fromarray(noise(4, 4, 3))
    got = normalized([0.5, 0.4, 0.3], [0.2, 0.3, 0.4])(image)
    assert torch.allclose(got[2], (pixels(image)[2] - 0.3) / 0.4)
    with pytest.raises(InvalidInputError, match="must be positive"):
        normalized([0.5], [0.0])


def test_materialise_keeps_the_order_asked_for() -> None:
    dataset = synthetic.shapes(count=6)
    inputs, labels = materialise(dataset, pixels, [4, 1])
    assert inputs.shape == (2, 3, 16, 16)
    assert labels.tolist() == [dataset[4][1], dataset[1][1]]
    assert labels.dtype == torch.int64
    assert torch.equal(inputs[1], pixels(dataset[1][0]))


def test_materialise_names_the_example_of_another_shape(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name, side in (("1.png", 4), ("2.png", 5)):
        Image.new("RGB", (side, side)).save(tmp_path / "a" / name)
    with pytest.raises(InvalidInputError, match=r"a/2\.png has shape \[3, 5, 5\], expected \[3, 4, 4\]"):
        materialise(image_folder.open_folder(tmp_path), pixels)


# the real files


@pytest.mark.data
@pytest.mark.parametrize(
    ("factory", "count", "size"),
    [
        (mnist.train, 60_000, (28, 28)),
        (mnist.test, 10_000, (28, 28)),
        (cifar10.lossless, 4000, (32, 32)),
        (cifar10.jpeg, 50_000, (32, 32)),
        (motorbike_fruit.train, 1430, (30, 30)),
        (motorbike_fruit.test, 358, (30, 30)),
    ],
)
def test_real_files_have_unique_ids(
    factory: Callable[[str], ImageDataset], count: int, size: tuple[int, int], data_root: Path
) -> None:
    dataset = factory(str(data_root))
    assert len(dataset) == count
    assert len(set(ids(dataset))) == count
    assert dataset[count - 1][0].size == size
