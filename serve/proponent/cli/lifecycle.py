"""Commands that change what is served or kept: publish, rollback, load, unload, forget, gc."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from proponent.cli.exit_codes import WRITES
from proponent.cli.options import (
    DEFAULT_STORE,
    LIFE,
    DryRunOption,
    JsonOption,
    ModelOption,
    StoreOption,
    open_store,
)
from proponent.index.store import Store

if TYPE_CHECKING:
    from proponent.index.lifecycle import Change


def register(app: typer.Typer) -> None:
    """Adds the commands to the command line."""
    for change in (publish, rollback, load, unload, forget, gc):
        app.command(rich_help_panel=LIFE, epilog=WRITES)(change)


def publish(
    digest: Annotated[str, typer.Argument(help="First digits of a bundle.")],
    store: StoreOption = DEFAULT_STORE,
    model: ModelOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make a bundle current, after checking every file of it.

    A running service takes it before the command returns, without failing a request; when the bundle cannot be
    served, the old one stays, and the exit code says why.

    Example: `proponent publish 81d0be --store model_store`
    """
    from proponent.publishing import publish as run_publish

    opened, name = open_store(store, model)
    _print_change(run_publish(opened, name, digest, dry_run=dry_run), as_json)


def rollback(
    store: StoreOption = DEFAULT_STORE,
    model: ModelOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make the previous bundle current again; a running service takes it as with publish.

    Example: `proponent rollback --store model_store`
    """
    from proponent.publishing import rollback as run_rollback

    opened, name = open_store(store, model)
    _print_change(run_rollback(opened, name, dry_run=dry_run), as_json)


def load(
    model: Annotated[str, typer.Argument(help="Name of a model in the store.")],
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Let a running service serve a model that is new in its store; the others notice nothing.

    Ends when the model answers, or says why it does not; the service then goes on trying. A model that is served
    already stays as it is. A service with --watch needs no such command.

    Example: `proponent load digits --store model_store`
    """
    from proponent.publishing import load as run_load

    done = run_load(Store(store), model)
    if as_json:
        typer.echo(json.dumps(done))
        return
    verb = "was served already, and answers" if done["was_served"] else f"answers after {done['seconds']:.1f} s"
    typer.echo(f"{model}: {done['digest'][:12]} {verb}")


def unload(
    model: Annotated[str, typer.Argument(help="Name of a model.")],
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Let a running service serve a model no more: it answers what it was asked, then its workers end.

    The files stay. The model comes back with `proponent load`, or when the service is started again.

    Example: `proponent unload digits --store model_store`
    """
    from proponent.publishing import unload as run_unload

    done = run_unload(Store(store), model)
    if as_json:
        typer.echo(json.dumps(done))
        return
    did = (
        f"is served no more, drained after {done['drained_seconds']:.1f} s"
        if done["was_served"]
        else "was not served"
    )
    typer.echo(f"{model} {did}")


def forget(
    example_ids: Annotated[
        list[str] | None, typer.Argument(metavar="ID...", help="Ids of training examples.")
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    model: ModelOption = None,
    compact: Annotated[
        bool, typer.Option(help="Also rewrite the bundles without what they hold of all forgotten examples.")
    ] = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Forget training examples: at once in every answer of every bundle, and in every later rebuild.

    Rows, metadata, thumbnails and texts leave the disk with --compact, which makes new bundles current and removes
    the old ones; without ids it compacts what was forgotten before. A running gateway takes the new bundle; one
    that another process reads is removed by a later compaction. The receipt says what still holds them. The
    dataset itself and the trained weights are not touched.

    Example: `proponent forget digits-0012 digits-0099 --compact --store model_store --json`
    """
    from proponent.errors import InvalidInputError
    from proponent.publishing import forget as run_forget

    if not example_ids and not compact:
        raise InvalidInputError("no id was given, expected at least one (or --compact)", field="example_ids")
    opened, name = open_store(store, model)
    receipt = run_forget(opened, name, example_ids or [], compact=compact, dry_run=dry_run)
    if as_json:
        typer.echo(json.dumps(asdict(receipt)))
        return
    verb = "would forget" if dry_run else "forgot"
    typer.echo(f"{verb} {len(receipt.newly_forgotten)} of {len(receipt.ids)} examples of {name} at {receipt.time}")
    for change in receipt.bundles:
        typer.echo(f"rewrote {change.before[:12]} as {change.after[:12]} without {change.rows_removed} rows")
    typer.echo(f"bundles that still hold forgotten examples: {_short(receipt.still_on_disk)}")


def gc(
    store: StoreOption = DEFAULT_STORE,
    model: ModelOption = None,
    workspace: Annotated[bool, typer.Option(help="Also drop the finished stages of a killed rebuild.")] = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Remove the bundles that are neither current nor previous and that no process reads.

    Example: `proponent gc --store model_store --dry-run`
    """
    from proponent.index.lifecycle import collect

    opened, name = open_store(store, model)
    found = collect(opened, name, workspace=workspace, dry_run=dry_run)
    if as_json:
        typer.echo(json.dumps(asdict(found)))
        return
    verb = "would remove" if dry_run else "removed"
    typer.echo(f"{verb} {len(found.removed)} bundles ({found.bytes:,} bytes): {_short(found.removed)}")
    typer.echo(f"kept: {_short(found.kept)}; in use: {_short(found.in_use)}")


def _print_change(change: Change, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(asdict(change)))
        return
    verb = "would be" if change.dry_run else "is"
    served = "" if change.seconds is None else f"; served after {change.seconds:.1f} s"
    before = (change.before or "none")[:12]
    typer.echo(f"{change.model}: {change.after[:12]} {verb} current, before: {before}{served}")


def _short(digests: list[str]) -> str:
    return ", ".join(digest[:12] for digest in digests) or "none"
