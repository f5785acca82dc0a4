"""The command line: every command parses, makes one library call and prints."""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from proponent.cli import bundles, groups, serve
from proponent.cli.audit import audit
from proponent.cli.options import DEFAULT_STORE, JsonOption, ModelOption, QuietOption, StoreOption, byte_size
from proponent.errors import ProponentError
from proponent.index.bundle import read_manifest
from proponent.index.store import Store

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Serve a PyTorch classifier with the training examples that argued for and against each prediction.",
)

groups.register(app)
bundles.register(app)
serve.register(app)
app.command()(audit)


@app.command()
def train(
    preset: Annotated[str, typer.Argument(help="Name of a preset; 'list' shows them.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Directory for weights, log and explain.yaml; default: runs/PRESET.")
    ] = None,
    data_root: Annotated[
        Path | None, typer.Option("--data-root", help="Folder of the data sets; default: PROPONENT_DATA.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of the preset's number.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first examples.")] = None,
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


@app.command()
def rebuild(
    spec: Annotated[Path, typer.Argument(help="explain.yaml, or a directory that holds one.")],
    store: StoreOption = DEFAULT_STORE,
    memory: Annotated[str, typer.Option(help="Memory budget, e.g. 8GiB.")] = "8GiB",
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Examples read at a time; the result does not depend on it.")
    ] = None,
    publish: Annotated[bool, typer.Option(help="Make the new bundle current.")] = True,
    damping: Annotated[str | None, typer.Option(help="A number, or auto: sweep and choose by retraining.")] = None,
    subsets: Annotated[int, typer.Option(min=2, help="Half-subsets to retrain on for --damping auto.")] = 16,
    jobs: Annotated[int, typer.Option(min=1, help="Processes that retrain.")] = 1,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Build the index of a classifier and make it current, also in a running service; a killed rebuild resumes.

    Example: `proponent rebuild runs/digits/explain.yaml --store model_store`
    """
    from proponent.audit.rebuilding import audited_rebuild
    from proponent.publishing import publish as run_publish
    from proponent.rebuild.pipeline import RebuildOptions
    from proponent.spec import load_spec, with_damping

    options = RebuildOptions(byte_size(memory, "--memory"), batch_size, publish=False, quiet=quiet)
    path = audited_rebuild(with_damping(load_spec(spec), damping), Store(store), options, subsets=subsets, jobs=jobs)
    manifest = read_manifest(path)
    if publish:
        run_publish(Store(store), manifest.model, manifest.digest)
    if as_json:
        typer.echo(json.dumps({"bundle": str(path), **asdict(manifest)}))
    else:
        typer.echo(f"bundle: {path}")
        typer.echo(
            f"{manifest.train_size} examples, K = {manifest.embedding_size}, curvature {manifest.curvature}, "
            f"training accuracy {manifest.train_accuracy:.4f}"
        )


@app.command()
def explain(
    image: Annotated[Path, typer.Argument(help="PNG or JPEG file.")],
    store: StoreOption = DEFAULT_STORE,
    model: ModelOption = None,
    top_k: Annotated[int, typer.Option(help="Length of each list.")] = 3,
    measure: Annotated[list[str] | None, typer.Option(help="influence, theta-relatif or l-relatif.")] = None,
    class_id: Annotated[int | None, typer.Option(help="Class to explain; default: the predicted one.")] = None,
    against: Annotated[int | None, typer.Option(help="Why --class-id rather than this class.")] = None,
    diverse: Annotated[
        str | None, typer.Option(help="DIVINE selection by sum-redundancy, facility-location or mmd.")
    ] = None,
    gamma: Annotated[
        float | None, typer.Option(min=0, help="Weight of --diverse; 0 gives plain top-k; default: 1.")
    ] = None,
    max_influence_loss: Annotated[
        float | None, typer.Option(min=0, max=1, help="Instead of --gamma: share of the influence to lose at most.")
    ] = None,
    unscaled: Annotated[bool, typer.Option(help="--gamma weighs the term as the paper writes it.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Explain one image with the current bundle, without a service.

    Example: `proponent explain digit.png --store model_store --top-k 3`
    """
    from google.protobuf.json_format import MessageToJson

    from proponent.cli.terminal import print_explanation
    from proponent.worker.local import explain_file

    opened = Store(store)
    reply = explain_file(
        opened.current(opened.only_model(model)),
        image,
        top_k=top_k,
        measures=measure,
        class_id=class_id,
        against=against,
        diverse=diverse,
        gamma=gamma,
        max_influence_loss=max_influence_loss,
        unscaled=unscaled,
    )
    if as_json:
        typer.echo(MessageToJson(reply, preserving_proto_field_name=True))
    else:
        print_explanation(Console(), reply)


@app.command()
def info(store: StoreOption = DEFAULT_STORE, model: ModelOption = None, as_json: JsonOption = False) -> None:
    """Describe the current bundle of a model.

    Example: `proponent info --store model_store --json`
    """
    opened = Store(store)
    manifest = asdict(read_manifest(opened.current(opened.only_model(model))))
    if as_json:
        typer.echo(json.dumps(manifest))
        return
    for key, value in manifest.items():
        if key not in ("files", "settings", "audit"):
            typer.echo(f"{key:20} {value}")


def main() -> None:
    """Runs the command line; errors meant for the user are one line on standard error and an exit code."""
    warnings.showwarning = _show_warning
    try:
        app()
    except ProponentError as error:
        print(f"error: {error.message} [{error.reason}]", file=sys.stderr)
        sys.exit(error.exit_code)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"warning: {message}", file=sys.stderr)
