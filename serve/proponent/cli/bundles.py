"""Commands that look at bundles: verify, diff, info, suspects."""

from __future__ import annotations

import csv
import json
import sys
from contextlib import closing
from dataclasses import asdict
from typing import Annotated, Any

import typer

from proponent.cli.exit_codes import DAMAGED, GATE, INTERRUPTED, READS, exits
from proponent.cli.options import (
    CHECK,
    DEFAULT_STORE,
    HtmlOption,
    JsonOption,
    ModelOption,
    StoreOption,
    current_bundle,
    member,
    open_store,
)
from proponent.options import DEFAULT_TOP_K, Measure


def register(app: typer.Typer) -> None:
    """Adds the commands to the command line."""
    app.command(rich_help_panel=CHECK, epilog=READS)(verify)
    app.command(rich_help_panel=CHECK, epilog=exits(3, DAMAGED, GATE, INTERRUPTED))(diff)
    app.command(rich_help_panel=CHECK, epilog=READS)(info)
    app.command(rich_help_panel=CHECK, epilog=exits(3, DAMAGED, 6, INTERRUPTED))(suspects)


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
        typer.echo(json.dumps({"whole": found.whole, **asdict(found)}))
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
        typer.echo(json.dumps(asdict(found)))
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
        typer.echo(json.dumps(manifest))
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
        typer.echo(
            json.dumps(
                {"bundle_digest": bundle.name, "total": page.total, "suspects": rows, "next_page_token": token}
            )
        )
    else:
        _print_suspects(rows, as_csv)


def _print_suspects(rows: list[dict[str, Any]], as_csv: bool) -> None:
    from proponent.cli.terminal import one_line, spreadsheet_cell

    if as_csv:
        writer = csv.DictWriter(sys.stdout, list(rows[0]) if rows else [])
        writer.writeheader()
        writer.writerows({key: spreadsheet_cell(value) for key, value in row.items()} for row in rows)
        return
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
