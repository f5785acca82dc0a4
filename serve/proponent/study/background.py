"""The white background of the motorbikes and fruit: whether lists follow it, and whether the model does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from proponent.audit.scoring import AuditContext
from proponent.results import Influence
from proponent.training.loop import predicted_labels

Pixels = NDArray[np.uint8]
WHITE, GREY = 240, 127
"""Least brightness that counts as white, and what takes its place."""
SIDE = 3
"""Pixels of a corner's side, and of the frame's width."""
_ENDS = (slice(None, SIDE), slice(-SIDE, None))
CORNERS = [(row, column) for row in _ENDS for column in _ENDS]
FRAME = [*((row, slice(None)) for row in _ENDS), *((slice(None), column) for column in _ENDS)]


def measured_background(
    context: AuditContext, positions: Sequence[int], lists: Sequence[Mapping[str, Sequence[Influence]]], names: Any
) -> dict[str, Any]:
    """What painting changes, and by list name how far the corners of listed examples are off, test point by point."""
    images = [np.asarray(context.held_out.item(position)[0]) for position in positions]
    found: dict[str, Any] = {
        "corners": _changed(context, images, lambda image: painted(image, CORNERS)),
        "frame": _changed(context, images, lambda image: painted(image, FRAME)),
        "grey": _changed(context, images, greyed),
    }
    train = _corners_by_label(context)
    labels = [context.held_out.item(position)[2] for position in positions]
    for name in names:
        found[f"off {name}"] = [
            pair
            for of, image, label in zip(lists, images, labels, strict=True)
            if (pair := _off(of[name], brightness(image), train[label]))
        ]
    return found


def brightness(image: Pixels) -> float:
    """Mean of the four corners of an image [H, W, 3], 0 to 255."""
    return float(np.mean([image[place].mean() for place in CORNERS]))


def white_corners(image: Pixels) -> bool:
    """Whether all four corners of an image [H, W, 3] are white."""
    return all(float(image[place].mean()) > WHITE for place in CORNERS)


def painted(image: Pixels, places: Sequence[tuple[slice, slice]]) -> Pixels:
    """The image with places grey where its corners are white, and white otherwise."""
    changed = image.copy()
    for place in places:
        changed[place] = GREY if white_corners(image) else 255
    return changed


def greyed(image: Pixels) -> Pixels:
    """The image with its white pixels grey."""
    return np.where((image > WHITE).all(axis=-1, keepdims=True), np.uint8(GREY), image)


def shares_of_corners(context: AuditContext) -> str:
    """Share of training images with white corners, by class, in words."""
    names = context.explainer.classifier.class_names
    seen: dict[int, list[bool]] = {}
    for place in range(len(context.data)):
        raw, _, label = context.data.item(place)
        seen.setdefault(label, []).append(white_corners(np.asarray(raw)))
    return ", ".join(
        f"{np.mean(of):.0%} of the {names[label]} images have four white corners"
        for label, of in sorted(seen.items())
    )


def rule_of_corners(context: AuditContext) -> float:
    """Share of held-out examples that "white corners are fruit" tells rightly."""
    items = [context.held_out.item(position) for position in range(len(context.held_out))]
    return float(np.mean([white_corners(np.asarray(raw)) == (label == 1) for raw, _, label in items]))


def _corners_by_label(context: AuditContext) -> dict[int, dict[str, float]]:
    """Brightness of the training examples' corners by label and id."""
    found: dict[int, dict[str, float]] = {}
    for place in range(len(context.data)):
        raw, _, label = context.data.item(place)
        found.setdefault(label, {})[context.data.example_id(place)] = brightness(np.asarray(raw))
    return found


def _off(listed: Sequence[Influence], own: float, same_class: Mapping[str, float]) -> list[float]:
    """Mean difference of brightness to listed examples of the class, and to all of it; empty without any listed."""
    of_class = [same_class[each.example_id] for each in listed if each.example_id in same_class]
    if not of_class:
        return []
    return [round(float(np.mean(np.abs(np.array(of) - own))), 1) for of in (of_class, list(same_class.values()))]


def _changed(context: AuditContext, images: Sequence[Pixels], change: Callable[[Pixels], Pixels]) -> float:
    """Share of predictions that a change of the images changes."""
    before, after = (_predicted(context, of) for of in (images, [change(image) for image in images]))
    return float((before != after).double().mean())


def _predicted(context: AuditContext, images: Sequence[Pixels]) -> torch.Tensor:
    classifier = context.explainer.classifier
    with torch.no_grad():
        inputs = [classifier.transform(Image.fromarray(image)) for image in images]
        return predicted_labels(classifier.model(torch.stack(inputs)))
