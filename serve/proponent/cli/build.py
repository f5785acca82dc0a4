"""Commands that make a model and its bundle: train, rebuild."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from proponent.cli.exit_codes import INTERRUPTED, WRITES, exits
from proponent.cli.options import (
    DEFAULT_STORE,
    USE,
    GpusOption,
    JsonOption,
    QuietOption,
    RayOption,
    StoreOption,
    WorkersOption,
    byte_size,
)
from proponent.index.bundle import read_manifest
from proponent.index.store import Store


def register(app: typer.Typer) -> None:
    """Adds the commands to the command line."""
    app.command(rich_help_panel=USE, epilog=exits(3, 6, INTERRUPTED))(train)
    app.command(rich_help_panel=USE, epilog=WRITES)(rebuild)


def train(
    preset: Annotated[str, typer.Argument(help="Name of a preset; 'list' shows them.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Directory for weights, log and explain.yaml; default: runs/PRESET.")
    ] = None,
    data_root: Annotated[
        Path | None, typer.Option("--data-root", help="Folder of the data sets; default: PROPONENT_DATA.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs, instead of the preset's.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only so many of the first examples.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N.")] = "cpu",
) -> None:
    """Train one of the paper's models and write its explain.yaml.

    Example: `proponent train digits --out runs/digits`
    """
    from proponent.training.train_preset import PRESETS, train_preset

    if preset == "list":
        typer.echo("\n".join(PRESETS))
        return
    out = out or Path("runs") / preset
    result = train_preset(preset, out, data_root=data_root, seed=seed, epochs=epochs, limit=limit, device=device)
    typer.echo(f"training accuracy {result.accuracy:.4f}, held-out accuracy {result.held_out_accuracy:.4f}")
    typer.echo(f"spec: {out / 'explain.yaml'}")


def rebuild(
    spec: Annotated[Path, typer.Argument(help="explain.yaml, or a directory that holds one.")],
    store: StoreOption = DEFAULT_STORE,
    memory: Annotated[
        str | None, typer.Option(help="Memory budget, e.g. 8GiB; default: that, or half of a GPU's.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Examples read at a time; the result does not depend on it.")
    ] = None,
    publish: Annotated[bool, typer.Option(help="Make the new bundle current.")] = True,
    samples: Annotated[
        int | None,
        typer.Option(min=0, max=10_000, help="Held-out inputs that the bundle keeps; default: the spec's."),
    ] = None,
    damping: Annotated[str | None, typer.Option(help="A number, or auto: sweep and choose by retraining.")] = None,
    subsets: Annotated[int, typer.Option(min=2, help="Half-subsets to retrain on for --damping auto.")] = 16,
    teachers: Annotated[
        int | None,
        typer.Option(min=0, help="Models of the same recipe to distil the scores from; default: the spec's."),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes that train teachers, and that retrain.")] = 1,
    ray: RayOption = None,
    workers: WorkersOption = 0,
    gpus_per_worker: GpusOption = 0.0,
    shards: Annotated[
        str,
        typer.Option(
            help="URL (s3://...) or absolute path for what is finished until the bundle is whole; default: the store."
        ),
    ] = "",
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Build the index of a classifier and make it current, also in a running service; a killed rebuild resumes.

    Example: `proponent rebuild runs/digits/explain.yaml --store model_store`
    """
    from proponent.publishing import publish as run_publish
    from proponent.rebuild.executors import executor_at
    from proponent.rebuild.pipeline import RebuildOptions
    from proponent.rebuilding import audited_rebuild
    from proponent.spec import load_spec, with_damping, with_samples, with_teachers

    wanted = with_teachers(with_samples(with_damping(load_spec(spec), damping), samples), teachers)
    budget = None if memory is None else byte_size(memory, "--memory")
    with executor_at(ray, workers, gpus_per_worker) as executor:
        options = RebuildOptions(budget, batch_size, False, quiet, jobs, executor, shards)
        path = audited_rebuild(wanted, Store(store), options, subsets=subsets, jobs=jobs)
    manifest = read_manifest(path)
    if publish:
        run_publish(Store(store), manifest.model, manifest.digest)
    if as_json:
        typer.echo(json.dumps({"bundle": str(path), **asdict(manifest)}))
    else:
        typer.echo(f"bundle: {path}")
        typer.echo(
            f"{manifest.train_size} examples, K = {manifest.embedding_size}, curvature {manifest.curvature}, "
            + (f"distilled from {manifest.teachers} teachers, " if manifest.teachers else "")
            + f"training accuracy {manifest.train_accuracy:.4f}"
        )
        if tuning := manifest.audit.get("tuning"):
            typer.echo(tuning["reason"])
