"""Commands that ask about chosen training examples: their scores, their removal, a set that flips a prediction."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message

from proponent.cli.exit_codes import HELP
from proponent.index.store import Store
from proponent.v1 import explanation_pb2 as pb

ImageArgument = Annotated[Path, typer.Argument(help="PNG or JPEG file.")]
IdsArgument = Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of training examples.")]
StoreOption = Annotated[Path, typer.Option("--store", help="Directory of bundles.", envvar="PROPONENT_STORE")]
ModelOption = Annotated[str | None, typer.Option("--model", help="Model name; needed when the store has several.")]
ClassOption = Annotated[int | None, typer.Option(help="Class to explain; default: the predicted one.")]
AgainstOption = Annotated[int | None, typer.Option(help="Why --class-id rather than this class.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
DEFAULT_STORE = Path("model_store")


def register(app: typer.Typer) -> None:
    """Adds the commands to the command line."""
    for command in (score, removal, flip):
        app.command(epilog=HELP)(command)


def score(
    image: ImageArgument,
    example_ids: IdsArgument,
    store: StoreOption = DEFAULT_STORE,
    model: ModelOption = None,
    measure: Annotated[list[str] | None, typer.Option(help="influence, theta-relatif or l-relatif.")] = None,
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
    reply = answer(_bundle(store, model), WorkerRequest(score=request)).score
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
    """Predict what the removal of training examples, and training again, would change for one image.

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
    reply = answer(_bundle(store, model), WorkerRequest(removal=request)).removal
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
    reply = answer(_bundle(store, model), WorkerRequest(flip=request)).flip
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


def _bundle(store: Path, model: str | None) -> Path:
    opened = Store(store)
    return opened.current(opened.only_model(model))


def _prediction(prediction: pb.Prediction) -> str:
    return f"prediction: {prediction.label} ({prediction.probabilities[prediction.class_id]:.1%})"


def _print_json(reply: Message) -> None:
    typer.echo(MessageToJson(reply, preserving_proto_field_name=True, always_print_fields_with_no_presence=True))
