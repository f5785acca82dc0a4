"""Publish, roll back, forget: with a running gateway, which takes the bundle at once, or by the pointer alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from proponent.errors import NotFoundError
from proponent.gateway.rollout.control_client import NOT_SERVED, request
from proponent.index import forgetting, lifecycle
from proponent.index.forgetting import Receipt
from proponent.index.lifecycle import Change
from proponent.index.store import Store


def publish(store: Store, model: str, digest: str, *, dry_run: bool = False) -> Change:
    """Makes a bundle current, by the first digits of its digest.

    Returns:
        What changed; ``seconds`` is None where no gateway serves this model, so that the next start takes it.

    Raises:
        NotFoundError: No such bundle.
        ProponentError: Why it cannot become current; nothing is changed.
    """
    served = None if dry_run else _request(store, {"command": "publish", "model": model, "digest": digest})
    return _change(served) if served else lifecycle.make_current(store, model, digest, dry_run=dry_run)


def rollback(store: Store, model: str, *, dry_run: bool = False) -> Change:
    """Makes the bundle current that was so before; see ``publish``."""
    served = None if dry_run else _request(store, {"command": "rollback", "model": model})
    return _change(served) if served else lifecycle.rollback(store, model, dry_run=dry_run)


def forget(
    store: Store, model: str, example_ids: Sequence[str], *, compact: bool = False, dry_run: bool = False
) -> Receipt:
    """Forgets examples, see ``index.forgetting``; a running gateway takes the compacted bundle.

    Once it has, the bundles that it read are removed as well.
    """
    receipt = forgetting.forget(store, model, example_ids, compact=compact, dry_run=dry_run)
    if not compact or not receipt.in_use or not _request(store, {"command": "publish", "model": model}):
        return receipt
    rest = forgetting.forget(store, model, [], compact=True)
    removed = [*receipt.removed, *rest.removed]
    return replace(receipt, removed=removed, still_on_disk=rest.still_on_disk, in_use=rest.in_use)


def _request(store: Store, command: dict[str, str | None]) -> dict[str, Any] | None:
    try:
        return request(store.root, command)
    except NotFoundError as error:
        if error.reason == NOT_SERVED:
            return None
        raise


def _change(served: dict[str, Any]) -> Change:
    return Change(served["model"], served["before"], served["after"], dry_run=False, seconds=served["seconds"])
