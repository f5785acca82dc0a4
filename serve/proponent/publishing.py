"""Publish and roll back: by the running gateway, which takes the bundle at once, or else by the pointer alone."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from proponent.errors import NotFoundError
from proponent.gateway.control import NOT_SERVED, request
from proponent.index import lifecycle
from proponent.index.store import Store


def publish(store: Store, model: str, digest: str, *, dry_run: bool = False) -> dict[str, Any]:
    """Makes a bundle current, by the first digits of its digest.

    Returns:
        ``model``, ``before``, ``after``, ``dry_run``, and ``seconds`` until a running gateway answered with it;
        None where there is no gateway for this model, so that the next start takes it.

    Raises:
        NotFoundError: No such bundle.
        ProponentError: Why it cannot become current; nothing is changed.
    """
    taken = None if dry_run else _ask(store, {"command": "publish", "model": model, "digest": digest})
    return _change(taken) if taken else _unserved(lifecycle.publish(store, model, digest, dry_run=dry_run))


def rollback(store: Store, model: str, *, dry_run: bool = False) -> dict[str, Any]:
    """Makes the bundle current that was so before; see ``publish``."""
    taken = None if dry_run else _ask(store, {"command": "rollback", "model": model})
    return _change(taken) if taken else _unserved(lifecycle.rollback(store, model, dry_run=dry_run))


def _ask(store: Store, command: dict[str, str | None]) -> dict[str, Any] | None:
    try:
        return request(store.root, command)
    except NotFoundError as error:
        if error.reason == NOT_SERVED:
            return None
        raise


def _change(taken: dict[str, Any]) -> dict[str, Any]:
    kept = {key: taken[key] for key in ("model", "before", "after", "seconds")}
    return {**kept, "dry_run": False}


def _unserved(change: lifecycle.Change) -> dict[str, Any]:
    return {**asdict(change), "seconds": None}
