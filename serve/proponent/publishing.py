"""Publish, roll back, forget: with a running gateway, which takes the bundle at once, or by the pointer alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from proponent.errors import NotFoundError
from proponent.gateway.rollout.control_client import NOT_SERVED, request
from proponent.index import forgetting, lifecycle
from proponent.index.forgetting import Receipt
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


def forget(
    store: Store, model: str, example_ids: Sequence[str], *, compact: bool = False, dry_run: bool = False
) -> Receipt:
    """Forgets examples, see ``index.forgetting``; a running gateway takes the compacted bundle.

    Once it has, the bundles that it read are removed as well.
    """
    receipt = forgetting.forget(store, model, example_ids, compact=compact, dry_run=dry_run)
    if not compact or not receipt.in_use or not _ask(store, {"command": "publish", "model": model}):
        return receipt
    rest = forgetting.forget(store, model, [], compact=True)
    removed = [*receipt.removed, *rest.removed]
    return replace(receipt, removed=removed, still_on_disk=rest.still_on_disk, in_use=rest.in_use)


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
