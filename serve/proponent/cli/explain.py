"""Commands that explain one input: the lists, chosen training examples' scores and removal, a set that flips it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from google.protobuf.json_format import MessageToDict, MessageToJson
from google.protobuf.message import Message

from proponent.cli.exit_codes import READS
from proponent.cli.given import given_input, input_and_ids
from proponent.cli.options import (
    DEFAULT_STORE,
    USE,
    WHAT_IF,
    JsonOption,
    MeasureOption,
    ModelOption,
    StoreOption,
    current_bundle,
    member,
)
from proponent.errors import InvalidInputError
from proponent.options import Diversity, Estimator, ExplainOptions, Measure, Ranking, Redundancy, Target, View
from proponent.text import Text
from proponent.v1 import explanation_pb2 as pb
from proponent.v1.worker_pb2 import WorkerReply, WorkerRequest

ImageArgument = Annotated[Path | None, typer.Argument(help="PNG or JPEG file; not with --text or --record.")]
TextOption = Annotated[str | None, typer.Option(help="Text to classify, or @FILE.")]
RecordOption = Annotated[str | None, typer.Option(help="Row of a table to classify: a JSON object, or @FILE.")]
IdsArgument = Annotated[
    list[str],
    typer.Argument(metavar="[IMAGE] ID...", help="PNG or JPEG file, unless --text or --record; training examples."),
]
ClassOption = Annotated[int | None, typer.Option(help="Class to explain; default: the predicted one.")]
AgainstOption = Annotated[int | None, typer.Option(help="Why --class-id rather than this class.")]
DiverseOption = Annotated[
    str | None, typer.Option(help="DIVINE selection by sum-redundancy, facility-location or mmd.")
]
GammaOption = Annotated[
    float | None, typer.Option(min=0, help="Weight of --diverse; 0 gives plain top-k; default: 1.")
]
InfluenceLossOption = Annotated[
    float | None, typer.Option(min=0, max=1, help="Largest share of the influence to give up, instead of --gamma.")
]
UnscaledOption = Annotated[bool, typer.Option(help="Let --gamma weigh the term as the paper writes it.")]
MergedOption = Annotated[
    bool, typer.Option(help="One list of the largest |score|, marked by sign, instead of one for each end.")
]
HighlightOption = Annotated[bool, typer.Option(help="Of texts: mark the words that carry the influence, in both.")]
SolverOption = Annotated[
    str | None, typer.Option(help="Solve over the training set instead of reading the index: cg, lissa or arnoldi.")
]
StepsOption = Annotated[
    int | None,
    typer.Option(min=1, help="Most steps of that solve; default: 200 of cg, 1,000 of lissa, 400 of arnoldi."),
]
ExamplesOption = Annotated[
    int | None, typer.Option(min=1, help="Training examples that its curvature is taken of; default: all.")
]
NormsOption = Annotated[
    int | None,
    typer.Option(min=1, help="Training examples, the most influential, that RelatIF solves for; default: 30."),
]
DampingOption = Annotated[
    float | None, typer.Option(min=0, help="Damping of that solve; default: the bundle's where it is absolute.")
]


def register(app: typer.Typer) -> None:
    """Adds the commands to the command line."""
    app.command(rich_help_panel=USE, epilog=READS)(explain)
    for command in (score, removal, flip):
        app.command(rich_help_panel=WHAT_IF, epilog=READS)(command)


def explain(
    image: ImageArgument = None,
    text: TextOption = None,
    record: RecordOption = None,
    store: StoreOption = DEFAULT_STORE,
    model: ModelOption = None,
    top_k: Annotated[int, typer.Option(help="Length of each list.")] = 3,
    measure: MeasureOption = None,
    class_id: ClassOption = None,
    against: AgainstOption = None,
    diverse: DiverseOption = None,
    gamma: GammaOption = None,
    max_influence_loss: InfluenceLossOption = None,
    unscaled: UnscaledOption = False,
    merged: MergedOption = False,
    highlight: HighlightOption = False,
    solver: SolverOption = None,
    solver_damping: DampingOption = None,
    solver_steps: StepsOption = None,
    solver_examples: ExamplesOption = None,
    solver_norms: NormsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Explain one image, text or row of a table with the current bundle, without a service.

    With --solver the influences come from one solve with the Hessian (deep networks: the Gauss-Newton matrix) of the
    training objective and a pass over all training examples, and the residual and the time are told. RelatIF
    (--measure theta-relatif) takes a solve more for each training example that it ranks: the most influential ones.

    Example: `proponent explain digit.png --store model_store --top-k 3`
    """
    options = ExplainOptions(
        measures=(Measure.INFLUENCE,) if solver and not measure else _measures(measure),
        top_k=top_k,
        target=Target(class_id, against),
        diversity=_diversity(diverse, gamma, max_influence_loss, unscaled) if diverse else None,
        view=View.THUMBNAIL,
        ranking=Ranking.BY_MAGNITUDE if merged else Ranking.BY_END,
    )
    value = given_input(image, text, record)
    query, bundle = _query(value, options), current_bundle(store, model)
    effort = {"damping": solver_damping, "steps": solver_steps, "examples": solver_examples, "norms": solver_norms}
    if solver is None:
        _check_no_effort(effort)
        reply, words = _by_index(bundle, query, highlight)
        _print_explanation(reply, {}, merged=merged, as_json=as_json, asked=query, words=words)
        return
    if highlight:
        raise InvalidInputError("words are weighed by the index alone, not by a solver", field="highlight")
    reply, solve = _by_solver(bundle, query, solver, effort)
    _print_explanation(reply, solve, merged=merged, as_json=as_json, asked=query)


def _check_no_effort(effort: Mapping[str, float | None]) -> None:
    for name, value in effort.items():
        if value is not None:
            field = f"solver_{name}"
            raise InvalidInputError(f"{field} is {value}, but no solver is named, expected --solver", field=field)


def _by_index(
    bundle: Path, query: pb.ExplainRequest, highlight: bool
) -> tuple[pb.ExplainResponse, pb.HighlightExamplesResponse | None]:
    from proponent.worker.local import LocalWorker

    worker = LocalWorker(bundle)
    reply = worker.answer(WorkerRequest(explain=query)).explain
    if not highlight:
        return reply, None
    return reply, worker.answer(WorkerRequest(highlight=highlights_of(query, reply))).highlight


def _by_solver(
    bundle: Path, query: pb.ExplainRequest, solver: str, effort: dict[str, Any]
) -> tuple[pb.ExplainResponse, dict[str, Any]]:
    from proponent.inspection.inverses import Solver
    from proponent.inspection.solving import Effort, explain_by_solver
    from proponent.request_options import options_from
    from proponent.worker.messages import explain_response

    damping, given = effort.pop("damping"), {name: value for name, value in effort.items() if value is not None}
    options, chosen = options_from(query), member(Solver, solver)
    found, solve = explain_by_solver(bundle, query, options, chosen, damping, Effort(**given))
    return explain_response(found, ""), asdict(solve)


def _print_explanation(
    reply: pb.ExplainResponse,
    solve: dict[str, Any],
    *,
    merged: bool,
    as_json: bool,
    asked: pb.ExplainRequest,
    words: pb.HighlightExamplesResponse | None = None,
) -> None:
    from rich.console import Console

    from proponent.cli.terminal import print_explanation

    if as_json:
        values = MessageToDict(reply, preserving_proto_field_name=True)
        told = MessageToDict(words, preserving_proto_field_name=True) if words else {}
        extra = {"solve": solve, "highlights": told.get("highlights")}
        typer.echo(json.dumps({**values, **{key: each for key, each in extra.items() if each}}, indent=2))
        return
    print_explanation(Console(), reply, asked, merged=merged, words=words)
    if solve:
        line = "{solver}: {curvature} of {examples:,} examples with damping {damping:g}, ".format(**solve)
        typer.echo(line + "relative residual {residual:.1e}, {seconds:.2f} s".format(**solve))
    if solve.get("norms"):
        line = "RelatIF ranks the {norms:,} most influential, a solve each: ".format(**solve)
        typer.echo(line + "relative residual {norms_residual:.1e}, {norms_seconds:.2f} s".format(**solve))


def highlights_of(query: pb.ExplainRequest, reply: pb.ExplainResponse) -> pb.HighlightExamplesRequest:
    """Asks for the words of a text and of all training texts in the lists about it.

    Raises:
        InvalidInputError: No training example is listed.
    """
    listed = [found for result in reply.results for found in (*result.proponents, *result.opponents)]
    ids = list(dict.fromkeys(found.example_id for found in listed))
    if not ids:
        raise InvalidInputError("no training example is listed whose words could be marked", field="highlight")
    return pb.HighlightExamplesRequest(query=query, example_ids=ids)


def score(
    example_ids: IdsArgument,
    text: TextOption = None,
    record: RecordOption = None,
    store: StoreOption = DEFAULT_STORE,
    model: ModelOption = None,
    measure: MeasureOption = None,
    class_id: ClassOption = None,
    against: AgainstOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score named training examples for one input, exactly.

    Example: `proponent score digit.png digits-0012 digits-0099 --store model_store`
    """
    from proponent.cli.terminal import MEASURE_NAMES, one_line

    value, ids = input_and_ids(example_ids, text, record)
    query = _query(value, ExplainOptions(measures=_measures(measure), target=Target(class_id, against)))
    request = pb.ScoreExamplesRequest(query=query, example_ids=ids)
    reply = _answer(store, model, WorkerRequest(score=request)).score
    if as_json:
        _print_json(reply)
        return
    typer.echo(_prediction(reply.prediction))
    for result in reply.results:
        for found in result.scores:
            typer.echo(f"{MEASURE_NAMES[result.measure]:14} {one_line(found.example_id):24} {found.score:+.4g}")


def removal(
    example_ids: IdsArgument,
    text: TextOption = None,
    record: RecordOption = None,
    store: StoreOption = DEFAULT_STORE,
    model: ModelOption = None,
    estimator: Annotated[
        str, typer.Option(help="first-order, second-order (one Newton step) or influence-sum (the thesis' I/N).")
    ] = "first-order",
    class_id: ClassOption = None,
    against: AgainstOption = None,
    as_json: JsonOption = False,
) -> None:
    """Predict how one input's prediction would change without training examples, after training again.

    Training again means the mean loss of the others; influence-sum leaves the others' weights at 1/N instead.

    Example: `proponent removal digit.png digits-0012 digits-0099 --store model_store`
    """
    value, ids = input_and_ids(example_ids, text, record)
    request = pb.EstimateRemovalRequest(
        query=_query(value, ExplainOptions(target=Target(class_id, against))),
        example_ids=ids,
        estimator=f"ESTIMATOR_{member(Estimator, estimator).name}",
    )
    reply = _answer(store, model, WorkerRequest(removal=request)).removal
    if as_json:
        _print_json(reply)
        return
    typer.echo(_prediction(reply.prediction))
    typer.echo(f"without {reply.group_size} of {reply.train_size} examples: loss {reply.loss_change:+.4g}")
    pairs = zip(reply.prediction.probabilities, reply.probabilities_after, strict=True)
    for number, (before, after) in enumerate(pairs):
        typer.echo(f"class {number}: {before:.2%} -> {after:.2%}")


def flip(
    image: ImageArgument = None,
    text: TextOption = None,
    record: RecordOption = None,
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
    from proponent.cli.terminal import one_line

    request = pb.FindFlipSetRequest(
        query=_query(given_input(image, text, record), ExplainOptions()), max_size=max_size
    )
    reply = _answer(store, model, WorkerRequest(flip=request)).flip
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
            name, label = one_line(member.example_id), one_line(member.label)
            typer.echo(f"{member.rank:4} {name:24} {label:12} {member.score:+.4g}")


def _measures(names: list[str] | None) -> tuple[Measure, ...]:
    return tuple(member(Measure, name) for name in names or ()) or tuple(Measure)


def _diversity(term: str, gamma: float | None, max_influence_loss: float | None, unscaled: bool) -> Diversity:
    if gamma is not None and max_influence_loss is not None:
        raise InvalidInputError(
            f"gamma {gamma:g} and max_influence_loss {max_influence_loss:g} were both given, expected one of them",
            field="diversity.strength",
        )
    chosen = Diversity(member(Redundancy, term), max_influence_loss=max_influence_loss, unscaled=unscaled)
    return chosen if gamma is None else replace(chosen, gamma=gamma)


def _query(value: Path | Text | dict[str, Any], options: ExplainOptions) -> pb.ExplainRequest:
    from proponent.client.requests import explain_request

    return explain_request("local", value, options)


def _answer(store: Path, model: str | None, request: WorkerRequest) -> WorkerReply:
    from proponent.worker.local import LocalWorker

    return LocalWorker(current_bundle(store, model)).answer(request)


def _prediction(prediction: pb.Prediction) -> str:
    from proponent.cli.terminal import one_line

    return f"prediction: {one_line(prediction.label)} ({prediction.probabilities[prediction.class_id]:.1%})"


def _print_json(reply: Message) -> None:
    typer.echo(MessageToJson(reply, preserving_proto_field_name=True, always_print_fields_with_no_presence=True))
