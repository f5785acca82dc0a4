"""Publish, roll back, forget, load, unload: with a running gateway, which does it at once, or in the store alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from proponent.errors import NotFoundError, UnavailableError
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


def load(store: Store, model: str) -> dict[str, Any]:
    """Lets the running gateway of a store serve a model of it, and waits until it answers.

    Returns:
        ``model``; the ``digest`` that is served; whether it ``was_served`` already; ``seconds`` until it answered.

    Raises:
        UnavailableError: No gateway runs (NO_GATEWAY).
        ProponentError: Why the model does not answer; the gateway goes on trying.
    """
    return _required(store, {"command": "load", "model": model})


def unload(store: Store, model: str) -> dict[str, Any]:
    """Lets the running gateway of a store serve a model no more, once it has answered what it was asked.

    Returns:
        ``model``; whether it ``was_served``; ``drained_seconds`` until its last call was answered.

    Raises:
        UnavailableError: No gateway runs (NO_GATEWAY).
        NotFoundError: Neither the gateway nor the store knows the model.
    """
    return _required(store, {"command": "unload", "model": model})


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


def _required(store: Store, command: dict[str, str | None]) -> dict[str, Any]:
    done = request(store.root, command)
    if done is None:
        message = f"no gateway serves {store.root}; one that starts serves every model in it (proponent serve)"
        raise UnavailableError(message, field="store", reason="NO_GATEWAY")
    return done


def _change(served: dict[str, Any]) -> Change:
    return Change(served["model"], served["before"], served["after"], dry_run=False, seconds=served["seconds"])
