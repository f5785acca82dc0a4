"""A tiny classifier as a user brings it: a module, weights, data and explain.yaml in one folder."""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn

from proponent.attribution.losses import get_loss
from proponent.index.bundle import FILES, Manifest
from proponent.training.loop import fit, seeded

CLASSES = ["bars", "stripes", "frame"]
SIDE = 6
_numbers = itertools.count()

MODULE = """
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

HERE = Path(__file__).parent


def logistic():
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 3))


def grouped():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2), nn.Tanh(), nn.Conv2d(4, 4, 2, groups=2), nn.Flatten(), nn.Linear(4, 3)
    )


def normed():
    return nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3))


def frozen(first=0, last=1):
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3))
    model[first:last].requires_grad_(False)
    return model


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.head = nn.Linear(36, 4), nn.Linear(36, 3)

    def forward(self, x):
        return self.head(functional.linear(self.encoder(x.flatten(1)).tanh(), self.encoder.weight.T))


def tied():
    return Tied()


class Grey(nn.Module):
    def __init__(self):
        super().__init__()
        from torchvision.models import VisionTransformer

        self.net = VisionTransformer(6, 3, num_layers=1, num_heads=2, hidden_dim=4, mlp_dim=4, num_classes=3)
        nn.init.normal_(self.net.heads.head.weight)  # torchvision's own start is at zero

    def forward(self, x):
        return self.net(x.expand(-1, 3, -1, -1))


def transformer():
    return Grey()


class Mixture(nn.Module):
    # Rows of a picture as a sequence of vectors, and as indices; an image made larger again.

    def __init__(self):
        super().__init__()
        self.rows, self.group = nn.Conv1d(6, 4, 3, padding=1), nn.GroupNorm(2, 4)
        self.larger, self.batch = nn.ConvTranspose2d(1, 2, 2, stride=2), nn.BatchNorm2d(2)
        self.table, self.memory = nn.Embedding(4, 4), nn.LSTM(6, 2, batch_first=True)
        self.norm, self.head = nn.RMSNorm(4), nn.Linear(8, 3)

    def forward(self, x):
        rows = self.group(self.rows(x[:, 0])).tanh().mean(dim=2)
        image = self.batch(self.larger(x)).tanh().mean(dim=(2, 3))
        words = self.norm(self.table((x[:, 0].mean(dim=2) * 3).long()) + rows[:, None]).mean(dim=1)
        return self.head(torch.cat([words, image, self.memory(x[:, 0])[0][:, -1]], dim=1))


def mixture():
    return Mixture()


class Images:
    def __init__(self, limit=None, same_id=False, broken=False):
        stored = load_file(HERE / "data.safetensors")
        self.pixels, self.labels = stored["pixels"][:limit], stored["labels"][:limit]
        self.same_id = same_id
        self.broken = broken

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, position):
        if self.broken:
            raise OSError("no such picture")
        return Image.fromarray(self.pixels[position].numpy()), int(self.labels[position])

    def example_id(self, position):
        return "toy/0" if self.same_id else f"toy/{position}"

    def source(self, position):
        return f"data.safetensors#{position}"


class HeldOut(Images):
    # Other pictures; ``change`` makes one of them something else.

    def __init__(self, change=None, mode=None):
        stored = load_file(HERE / "held_out.safetensors")
        self.pixels, self.labels = stored["pixels"], stored["labels"].clone()
        self.same_id = self.broken = False
        self.change, self.mode = change, mode
        if change == "label":
            self.labels[2] = 7

    def __getitem__(self, position):
        if position == 2 and self.change == "decode":
            raise OSError("no such picture")
        image, label = super().__getitem__(position)
        image.info["exif"] = b"where it was taken"
        return image.convert(self.mode) if self.mode else image, label

    def example_id(self, position):
        return f"held/{position}"


class HeldOutTensors(HeldOut):
    def __getitem__(self, position):
        value = self.pixels[position].float()[None] / 255
        return value * float("nan") if position == 2 and self.change == "value" else value, int(self.labels[position])


class Unlabelled(Images):
    def __getitem__(self, position):
        return super().__getitem__(position)[0], None


class Tensors:
    def __init__(self, **changes):
        stored = load_file(HERE / "data.safetensors")
        self.inputs = stored["pixels"].float()[:, None] / 255
        self.labels = stored["labels"].clone()
        if "value" in changes:
            self.inputs[3, 0, 0, 0] = float(changes["value"])
        if "label" in changes:
            self.labels[3] = changes["label"]
        if "short" in changes:
            self.inputs = [self.inputs[0], self.inputs[1][:, :3]]
            self.labels = self.labels[:2]

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, position):
        return self.inputs[position], int(self.labels[position])
"""


def pictures(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """``[count, 6, 6]`` uint8 pictures of three noisy patterns, and their labels."""
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.zeros(3, SIDE, SIDE)
    patterns[0, :, ::2] = 90
    patterns[1, ::2, :] = 90
    patterns[2, 1:-1, 1:-1] = 90
    labels = torch.arange(count) % 3
    noise = torch.rand(count, SIDE, SIDE, generator=generator) * 160
    return (patterns[labels] + noise).clamp(max=255).to(torch.uint8), labels


def inputs(count: int, seed: int = 1) -> list[Tensor]:
    """Model inputs that training has not seen."""
    return list(pictures(count, seed)[0].float()[:, None] / 255)


def project(
    root: Path,
    *,
    model: str = "logistic",
    dataset: str = "Images",
    count: int = 40,
    loss: str = "cross_entropy",
    weight_decay: float = 0.01,
    trained_loss: str | None = None,
    curvature: dict[str, Any] | None = None,
    dataset_kwargs: dict[str, Any] | None = None,
    iterations: int = 2000,
    random_labels: bool = False,
    **keys: Any,
) -> Path:
    """Writes the folder, trains the model to a minimum and returns the path of explain.yaml."""
    root.mkdir(parents=True, exist_ok=True)
    name = f"toy_module_{next(_numbers)}"
    (root / f"{name}.py").write_text(MODULE)
    pixels, labels = pictures(count)
    if random_labels:  # no classifier fits many of them, so that there is a minimum without weight decay
        labels = torch.randint(3, (count,), generator=torch.Generator().manual_seed(1))
    save_file({"pixels": pixels, "labels": labels}, root / "data.safetensors")
    _train(root, name, model, pixels, labels, trained_loss or loss, weight_decay, iterations)
    content = {
        "name": "toy",
        "model": {"factory": f"{name}:{model}"},
        "weights": "weights.safetensors",
        "dataset": {"factory": f"{name}:{dataset}", "kwargs": dataset_kwargs or {}},
        "loss": loss,
        "weight_decay": weight_decay,
        "class_names": CLASSES,
        "expected_accuracy": 0.8,
        "curvature": curvature or {"kind": "exact"},
        **keys,
    }
    return write(root, content)


def hold_out(path: Path, count: int, dataset: str = "HeldOut", **kwargs: Any) -> Path:
    """Adds a held-out set of other pictures to a project."""
    pixels, labels = pictures(count, seed=1)
    save_file({"pixels": pixels, "labels": labels}, path.parent / "held_out.safetensors")
    module = yaml.safe_load(path.read_text())["model"]["factory"].partition(":")[0]
    return change(path, held_out={"factory": f"{module}:{dataset}", "kwargs": kwargs})


def write(root: Path, content: dict[str, Any]) -> Path:
    """Writes explain.yaml."""
    path = root / "explain.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def change(path: Path, **keys: Any) -> Path:
    """Rewrites keys of an explain.yaml."""
    return write(path.parent, {**yaml.safe_load(path.read_text()), **keys})


def manifest(**changes: Any) -> Manifest:
    """A manifest of nothing in particular."""
    values: dict[str, Any] = {
        "model": "toy",
        "created": "2026-01-01T00:00:00+00:00",
        "weights_sha256": "w",
        "dataset_sha256": "d",
        "loss": "cross_entropy",
        "weight_decay": 0.01,
        "curvature": "exact",
        "damping": 0.0,
        "damping_relative": False,
        "embedding_size": 4,
        "train_size": 3,
        "class_names": CLASSES,
        "input_shape": [1, SIDE, SIDE],
        "image_size": [SIDE, SIDE],
        "image_mode": "L",
        "kept_energy": 1.0,
        "omitted_rows": 0,
        "train_accuracy": 1.0,
        "gradient_norm_ratio": 0.0,
        "settings": {},
        "versions": {},
        "uncovered": {},
        "uncovered_share": 0.0,
    }
    return Manifest(**{**values, **changes})


def bundle_files(directory: Path, text: str = "") -> Path:
    """A directory with a little something in every file of a bundle but the manifest."""
    directory.mkdir(parents=True)
    for name in FILES:
        (directory / name).write_text(f"{name} {text}")
    return directory


def user_model(root: Path, name: str, model: str) -> nn.Module:
    """A model of the user's module, without the package's help."""
    spec = importlib.util.spec_from_file_location(f"direct_{name}", root / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: nn.Module = getattr(module, model)()
    return found


def _train(
    root: Path, name: str, model: str, pixels: Tensor, labels: Tensor, loss: str, weight_decay: float, iterations: int
) -> None:
    with seeded(0):
        found = user_model(root, name, model)
    fit(
        found.eval(),
        pixels.float()[:, None] / 255,
        labels,
        get_loss(loss).per_example,
        weight_decay=weight_decay,
        optimizer="lbfgs",
        epochs=iterations,
    )
    save_file({key: value.contiguous() for key, value in found.state_dict().items()}, root / "weights.safetensors")
