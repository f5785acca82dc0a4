"""Commands that explain one image: the lists, chosen training examples' scores and removal, a set that flips it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message

from proponent.cli.exit_codes import READS
from proponent.cli.options import (
    DEFAULT_STORE,
    USE,
    WHAT_IF,
    JsonOption,
    MeasureOption,
    ModelOption,
    StoreOption,
    current_bundle,
)
from proponent.v1 import explanation_pb2 as pb

ImageArgument = Annotated[Path, typer.Argument(help="PNG or JPEG file.")]
IdsArgument = Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of training examples.")]
ClassOption = Annotated[int | None, typer.Option(help="Class to explain; default: the predicted one.")]
AgainstOption = Annotated[int | None, typer.Option(help="Why --class-id rather than this class.")]


def register(app: typer.Typer) -> None:
    """Adds the commands to the command line."""
    app.command(rich_help_panel=USE, epilog=READS)(explain)
    for command in (score, removal, flip):
        app.command(rich_help_panel=WHAT_IF, epilog=READS)(command)


def explain(
    image: ImageArgument,
    store: StoreOption = DEFAULT_STORE,
    model: ModelOption = None,
    top_k: Annotated[int, typer.Option(help="Length of each list.")] = 3,
    measure: MeasureOption = None,
    class_id: ClassOption = None,
    against: AgainstOption = None,
    diverse: Annotated[
        str | None, typer.Option(help="DIVINE selection by sum-redundancy, facility-location or mmd.")
    ] = None,
    gamma: Annotated[
        float | None, typer.Option(min=0, help="Weight of --diverse; 0 gives plain top-k; default: 1.")
    ] = None,
    max_influence_loss: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Largest share of the influence to give up, instead of --gamma."),
    ] = None,
    unscaled: Annotated[bool, typer.Option(help="Let --gamma weigh the term as the paper writes it.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Explain one image with the current bundle, without a service.

    Example: `proponent explain digit.png --store model_store --top-k 3`
    """
    from rich.console import Console

    from proponent.cli.terminal import print_explanation
    from proponent.worker.local import explain_file

    reply = explain_file(
        current_bundle(store, model),
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


def score(
    image: ImageArgument,
    example_ids: IdsArgument,
    store: StoreOption = DEFAULT_STORE,
    model: ModelOption = None,
    measure: MeasureOption = None,
    class_id: ClassOption = None,
    against: AgainstOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score named training examples for one image, exactly.

    Example: `proponent score digit.png digits-0012 digits-0099 --store model_store`
    """
    from proponent.cli.terminal import MEASURE_NAMES
    from proponent.v1.worker_pb2 import WorkerRequest
    from proponent.worker.local import answer, query_message

    query = query_message(image, measures=measure, class_id=class_id, against=against)
    request = pb.ScoreExamplesRequest(query=query, example_ids=example_ids)
    reply = answer(current_bundle(store, model), WorkerRequest(score=request)).score
    if as_json:
        _print_json(reply)
        return
    typer.echo(_prediction(reply.prediction))
    for result in reply.results:
        for found in result.scores:
            typer.echo(f"{MEASURE_NAMES[result.measure]:14} {found.example_id:24} {found.score:+.4g}")


def removal(
    image: ImageArgument,
    example_ids: IdsArgument,
    store: StoreOption = DEFAULT_STORE,
    model: ModelOption = None,
    estimator: Annotated[
        str, typer.Option(help="first-order, second-order (one Newton step) or influence-sum (the thesis' I/N).")
    ] = "first-order",
    class_id: ClassOption = None,
    against: AgainstOption = None,
    as_json: JsonOption = False,
) -> None:
    """Predict how one image's prediction would change without training examples, after training again.

    Training again means the mean loss of the others; influence-sum leaves the others' weights at 1/N instead.

    Example: `proponent removal digit.png digits-0012 digits-0099 --store model_store`
    """
    from proponent.v1.worker_pb2 import WorkerRequest
    from proponent.worker.local import answer, estimator_number, query_message

    query = query_message(image, class_id=class_id, against=against)
    request = pb.EstimateRemovalRequest(
        query=query,
        example_ids=example_ids,
        estimator=estimator_number(estimator),  # type: ignore[arg-type]
    )
    reply = answer(current_bundle(store, model), WorkerRequest(removal=request)).removal
    if as_json:
        _print_json(reply)
        return
    typer.echo(_prediction(reply.prediction))
    typer.echo(f"without {reply.group_size} of {reply.train_size} examples: loss {reply.loss_change:+.4g}")
    pairs = zip(reply.prediction.probabilities, reply.probabilities_after, strict=True)
    for number, (before, after) in enumerate(pairs):
        typer.echo(f"class {number}: {before:.2%} -> {after:.2%}")


def flip(
    image: ImageArgument,
    store: StoreOption = DEFAULT_STORE,
    model: ModelOption = None,
    max_size: Annotated[int, typer.Option(min=0, help="Largest set; 0: a tenth of the training set.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Look for a small set of training examples whose removal is predicted to flip the prediction.

    The search is greedy: a smaller set may exist, and a set may exist where none is found. For convex models most
    predicted flips come true; for networks they are a guess.

    Example: `proponent flip digit.png --store model_store --max-size 50`
    """
    from proponent.v1.worker_pb2 import WorkerRequest
    from proponent.worker.local import answer, query_message

    request = pb.FindFlipSetRequest(query=query_message(image), max_size=max_size)
    reply = answer(current_bundle(store, model), WorkerRequest(flip=request)).flip
    if as_json:
        _print_json(reply)
        return
    typer.echo(_prediction(reply.prediction))
    for notice in reply.notices:
        typer.echo(f"note: {notice.message}")
    if reply.members:
        after = reply.probabilities_after[reply.flipped_class_id]
        typer.echo(f"without these {len(reply.members)} examples: class {reply.flipped_class_id} ({after:.1%})")
        for member in reply.members:
            typer.echo(f"{member.rank:4} {member.example_id:24} {member.label:12} {member.score:+.4g}")


def _prediction(prediction: pb.Prediction) -> str:
    return f"prediction: {prediction.label} ({prediction.probabilities[prediction.class_id]:.1%})"


def _print_json(reply: Message) -> None:
    typer.echo(MessageToJson(reply, preserving_proto_field_name=True, always_print_fields_with_no_presence=True))
