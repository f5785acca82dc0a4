"""The store: for each model its bundles, a pointer to the current one and the one before."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from proponent.errors import CorruptBundleError, InvalidInputError, NotFoundError, SpecError
from proponent.index.bundle import MANIFEST, read_manifest, write_json

CURRENT = "current"
BUNDLES = "bundles"
MODEL_NAME = r"^[a-z0-9][a-z0-9._-]{0,127}$"
"""What a model may be called: a part of paths, of URLs, and of names in model servers."""


def check_model_name(name: str) -> None:
    """Raises InvalidInputError where no model can be called so."""
    if re.fullmatch(MODEL_NAME, name) is None:
        message = f"model name {name!r} is not valid, expected {MODEL_NAME}"
        raise InvalidInputError(message, field="model", reason="MODEL_NAME_INVALID")


class Store:
    """``root/<model>/current`` names a bundle in ``root/<model>/bundles`` by its digest.

    >>> opened = Store(store)  # a directory
    >>> opened.models()
    ['digits']
    >>> opened.current("digits").parent.name  # where the bundle in service lies
    'bundles'
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).absolute()

    def models(self) -> list[str]:
        """Names of the models that have a current bundle."""
        if not self.root.is_dir():
            raise NotFoundError(f"store not found: {self.root} (make one with: proponent rebuild)", field="store")
        return sorted(path.parent.name for path in self.root.glob(f"*/{CURRENT}"))

    def only_model(self, name: str | None) -> str:
        """The model named, or the only one of the store.

        Raises:
            NotFoundError: The store holds none.
            SpecError: One of several must be named.
        """
        if name is not None:
            return name
        models = self.models()
        if not models:
            raise NotFoundError(f"no model in {self.root} (make one with: proponent rebuild)", field="store")
        if len(models) > 1:
            raise SpecError(f"the store has models {', '.join(models)}: name one with --model", field="model")
        return models[0]

    def directory(self, model: str) -> Path:
        """Directory of one model."""
        return self.root / model

    def bundles(self, model: str) -> Path:
        """Directory of the model's bundles; made when missing."""
        path = self.directory(model) / BUNDLES
        path.mkdir(parents=True, exist_ok=True)
        return path

    def pointer(self, model: str) -> dict[str, Any]:
        """What ``current`` says: the digest now and, where there was one, the digest before.

        Raises:
            NotFoundError: The model has no current bundle; names the models that have one.
            CorruptBundleError: The pointer cannot be read.
        """
        path = self.directory(model) / CURRENT
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            digest = content["digest"]
        except FileNotFoundError:
            known = ", ".join(self.models()) or "none"
            raise NotFoundError(
                f"no bundle for model {model!r} in {self.root} (models: {known})", field="model"
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CorruptBundleError(f"pointer cannot be read: {path}: {error}", field=CURRENT) from error
        if not isinstance(digest, str) or "/" in digest:
            raise CorruptBundleError(f"pointer names no bundle: {path}: {digest!r}", field=CURRENT)
        return dict(content)

    def current(self, model: str) -> Path:
        """The current bundle of a model; its manifest must have the digest that the pointer names.

        Raises:
            NotFoundError: The model has none.
            CorruptBundleError: The pointer or the manifest is damaged.
        """
        digest = str(self.pointer(model)["digest"])
        path = self.directory(model) / BUNDLES / digest
        if not (path / MANIFEST).is_file():
            raise CorruptBundleError(f"bundle file is missing: {path / MANIFEST}", field=MANIFEST)
        actual = read_manifest(path).digest
        if actual != digest:
            raise CorruptBundleError(
                f"bundle file is damaged: {path / MANIFEST} has SHA-256 {actual[:16]}..., expected {digest[:16]}...",
                field=MANIFEST,
            )
        return path

    def set_current(self, model: str, digest: str) -> None:
        """Makes a bundle current, atomically; remembers the one before."""
        try:
            before = self.pointer(model)
        except (NotFoundError, CorruptBundleError):
            before = {}
        previous = before.get("previous") if before.get("digest") == digest else before.get("digest")
        self.point(model, digest, previous)

    def point(self, model: str, digest: str, previous: str | None = None) -> None:
        """Replaces the pointer of a model."""
        path = self.directory(model) / CURRENT
        write_json(path, {"digest": digest, **({"previous": previous} if previous else {})})
