"""Commands on bundles: verify, diff, info, suspects; publish, rollback, load, unload, forget, gc."""

from __future__ import annotations

import csv
import json
import sys
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proponent.cli.exit_codes import DAMAGED, GATE, INTERRUPTED, READS, WRITES, exits
from proponent.cli.options import (
    CHECK,
    DEFAULT_STORE,
    LIFE,
    DryRunOption,
    HtmlOption,
    JsonOption,
    ModelOption,
    StoreOption,
    current_bundle,
    member,
    open_store,
)
from proponent.index.store import Store
from proponent.options import DEFAULT_TOP_K, Measure

if TYPE_CHECKING:
    from proponent.index.lifecycle import Change


def register(app: typer.Typer) -> None:
    """Adds the commands to the command line."""
    app.command(rich_help_panel=CHECK, epilog=READS)(verify)
    app.command(rich_help_panel=CHECK, epilog=exits(3, DAMAGED, GATE, INTERRUPTED))(diff)
    app.command(rich_help_panel=CHECK, epilog=READS)(info)
    app.command(rich_help_panel=CHECK, epilog=exits(3, DAMAGED, 6, INTERRUPTED))(suspects)
    for change in (publish, rollback, load, unload, forget, gc):
        app.command(rich_help_panel=LIFE, epilog=WRITES)(change)


def verify(
    digest: Annotated[str | None, typer.Argument(help="First digits of a bundle; default: the current one.")] = None,
    store: StoreOption = DEFAULT_STORE,
    model: ModelOption = None,
    sample: Annotated[int, typer.Option(min=0, help="Examples to embed again; 0: files and tables only.")] = 64,
    seed: Annotated[int, typer.Option(help="Seed of the sample.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Check a bundle: every file by its SHA-256, its tables, and a sample of rows by the model and the dataset.

    Example: `proponent verify --store model_store --sample 200`
    """
    from proponent.index.lifecycle import find_bundle
    from proponent.inspection.verify import verify as run_verify

    opened, name = open_store(store, model)
    found = run_verify(
        find_bundle(opened, name, digest) if digest else opened.current(name), sample=sample, seed=seed
    )
    if as_json:
        _print_json({"whole": found.whole, **asdict(found)})
    else:
        for problem in found.problems:
            typer.echo(f"{problem.file}: {problem.message}")
        checked = f"{found.rescored} rows rescored" if not found.skipped else f"no row rescored: {found.skipped}"
        typer.echo(f"bundle {found.digest[:12]}: {'whole' if found.whole else 'DAMAGED'}, {checked}")
    if not found.whole:
        raise typer.Exit(DAMAGED)


def diff(
    old: Annotated[str, typer.Argument(help="First digits of the old bundle.")],
    new: Annotated[str | None, typer.Argument(help="First digits of the new one; default: the current one.")] = None,
    store: StoreOption = DEFAULT_STORE,
    model: ModelOption = None,
    queries: Annotated[int, typer.Option(min=1, help="Inputs that both explain.")] = 100,
    top_k: Annotated[int, typer.Option(min=1, help="Length of the lists compared.")] = DEFAULT_TOP_K,
    measure: Annotated[str, typer.Option(help="influence, theta-relatif or l-relatif.")] = "influence",
    seed: Annotated[int, typer.Option(help="Seed of the sample of inputs.")] = 0,
    fail_below: Annotated[
        float | None, typer.Option(min=0, max=1, help="Exit with 7 where the mean top-k overlap is lower.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare the explanations of two bundles: top-k overlap and rank correlation, also by class.

    Example: `proponent diff 3f2a9c 81d0be --store model_store --fail-below 0.8`
    """
    from proponent.cli.terminal import one_line
    from proponent.index.lifecycle import find_bundle
    from proponent.inspection.diff import diff as run_diff

    opened, name = open_store(store, model)
    bundles = find_bundle(opened, name, old), find_bundle(opened, name, new) if new else opened.current(name)
    found = run_diff(*bundles, queries=queries, top_k=top_k, measure=member(Measure, measure), seed=seed)
    if as_json:
        _print_json(asdict(found))
    else:
        typer.echo(f"{'class':20} {'queries':>7} {'overlap':>7} {'rank corr.':>10} {'new label':>9}")
        for label, a in {**found.per_class, "all": found.overall}.items():
            figures = f"{a.queries:7} {a.overlap:7.3f} {a.rank_correlation:10.3f} {a.predictions_changed:9}"
            typer.echo(f"{one_line(label):20} {figures}")
    if fail_below is not None and found.overall.overlap < fail_below:
        typer.echo(f"overlap {found.overall.overlap:.3f} is below {fail_below}", err=True)
        raise typer.Exit(GATE)


def info(store: StoreOption = DEFAULT_STORE, model: ModelOption = None, as_json: JsonOption = False) -> None:
    """Describe the current bundle of a model.

    Example: `proponent info --store model_store --json`
    """
    from proponent.index.bundle import read_manifest

    manifest = asdict(read_manifest(current_bundle(store, model)))
    if as_json:
        _print_json(manifest)
        return
    for key, value in manifest.items():
        if key not in ("files", "settings", "audit"):
            typer.echo(f"{key:20} {value}")


def suspects(
    store: StoreOption = DEFAULT_STORE,
    model: ModelOption = None,
    limit: Annotated[int, typer.Option(min=1, help="Number of rows.")] = 20,
    offset: Annotated[int, typer.Option(min=0, help="Rows to skip.")] = 0,
    page_token: Annotated[str | None, typer.Option(help="next_page_token of the page before.")] = None,
    html: HtmlOption = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV on standard output.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Rank training examples by self-influence: suspects of a wrong label first.

    is_label_issue: the model disagrees with the label and the self-influence is among the highest tenth.
    label_score: share of examples ranked before; lower is more suspicious.

    --html shows them with their pictures, how self-influence is spread, and the counts of each class.

    Example: `proponent suspects --store model_store --limit 100 --html suspects.html`
    """
    from proponent.index.bundle import CATALOG, read_manifest
    from proponent.index.catalog import Catalog
    from proponent.index.tombstones import Tombstones
    from proponent.reports.writing import check_out

    if html:
        check_out(html)
    opened, name = open_store(store, model)
    bundle = opened.current(name)
    forgotten = Tombstones.open(opened, name).ids()
    with closing(Catalog.open(bundle / CATALOG)) as catalog:
        after = catalog.place_of(page_token, bundle.name) if page_token else None
        page = catalog.label_suspects(limit, after=after, offset=offset, forgotten=forgotten)
    if html:
        from proponent.reports.report import write_suspects

        write_suspects(bundle, html, page, after.rank if after else offset)
    names = read_manifest(bundle).class_names
    rows = [_suspect_row(asdict(suspect), names) for suspect in page.suspects]
    if as_json:
        token = page.next.token(bundle.name) if page.next else ""
        _print_json({"bundle_digest": bundle.name, "total": page.total, "suspects": rows, "next_page_token": token})
    else:
        _print_suspects(rows, as_csv)


def _print_suspects(rows: list[dict[str, Any]], as_csv: bool) -> None:
    if as_csv:
        writer = csv.DictWriter(sys.stdout, list(rows[0]) if rows else [])
        writer.writeheader()
        writer.writerows(rows)
        return
    from proponent.cli.terminal import one_line

    for row in rows:
        mark = "issue" if row["is_label_issue"] else ""
        labels = f"{one_line(row['given_label']):>12} -> {one_line(row['predicted_label']):<12}"
        typer.echo(f"{one_line(row['example_id']):24} {labels} {row['self_influence']:10.4g} {mark}")


def _suspect_row(row: dict[str, Any], names: list[str]) -> dict[str, Any]:
    return {
        **row,
        "given_label": names[row["given_class_id"]],
        "predicted_label": names[row["predicted_class_id"]],
    }


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
        _print_json(done)
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
        _print_json(done)
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

    Their rows, metadata and thumbnails leave the disk with --compact, which makes new bundles current and removes
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
        _print_json(asdict(receipt))
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
        _print_json(asdict(found))
        return
    verb = "would remove" if dry_run else "removed"
    typer.echo(f"{verb} {len(found.removed)} bundles ({found.bytes:,} bytes): {_short(found.removed)}")
    typer.echo(f"kept: {_short(found.kept)}; in use: {_short(found.in_use)}")


def _print_change(change: Change, as_json: bool) -> None:
    if as_json:
        _print_json(asdict(change))
        return
    verb = "would be" if change.dry_run else "is"
    served = "" if change.seconds is None else f"; served after {change.seconds:.1f} s"
    before = (change.before or "none")[:12]
    typer.echo(f"{change.model}: {change.after[:12]} {verb} current, before: {before}{served}")


def _print_json(content: dict[str, Any]) -> None:
    typer.echo(json.dumps(content))


def _short(digests: list[str]) -> str:
    return ", ".join(digest[:12] for digest in digests) or "none"
