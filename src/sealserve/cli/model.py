"""``sealserve model``: fetch, convert, check and show models, or create an example."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from sealserve.cli import console, options
from sealserve.cli.context import Context
from sealserve.cli.deferred_imports import deferred
from sealserve.cli.output import Table, Text
from sealserve.cli.verbs import Verbs
from sealserve.errors import InputError, VerificationError
from sealserve.model.optimization.instructions import Instructions
from sealserve.terms import Precision

with deferred:
    from sealserve.cli.changing import owning
    from sealserve.cli.conversion import convert_again
    from sealserve.cli.optimization import (
        GeneratedInputs,
        OptimizationChoice,
        optimization_as_json,
        optimization_as_text,
        optimize_model,
    )
    from sealserve.cli.trial.signatures import Choice, Outcome, run_signatures
    from sealserve.model.fetch import fetch as fetch_file
    from sealserve.model.half_plus_two import write_half_plus_two
    from sealserve.model.lint import LintedModel, lint
    from sealserve.model.optimization.acceptance import Thresholds
    from sealserve.model.optimization.report import find_report
    from sealserve.model.resnet50 import build_frozen_graph
    from sealserve.model.saved_model import SERVE_TAGS, SavedModelInfo, TensorSpec, describe
    from sealserve.owner import models

Tags = Annotated[str, typer.Option(help="Tags of the graph in the SavedModel, separated by commas")]

app = Verbs("Fetch, convert, check and show models.")


@app.command()
def fetch(
    url: Annotated[str, typer.Argument(help="HTTPS address of the file")],
    destination: Annotated[Path, typer.Argument(metavar="OUTPUT", help="File to create")],
    sha256: Annotated[str, typer.Option(help="Expected SHA-256 of the file, 64 hex digits")],
) -> None:
    """Download a model file, and keep it only if its SHA-256 is as expected."""
    with console.spinner(f"Fetching {destination.name}") as describe_progress:

        def tell(size: int, total: int | None) -> None:
            describe_progress(f"Fetching {destination.name}: {size / 1e6:.0f} of {(total or 0) / 1e6:.0f} MB")

        fetched = fetch_file(url, destination, sha256=sha256, progress=tell)
    state = "downloaded" if fetched.downloaded else "already present"
    console.out.print(f"{fetched.path}: {state}, {fetched.size} bytes, SHA-256 as expected.")


@app.command("make-example")
def make_example(
    destination: Annotated[
        Path,
        typer.Argument(metavar="OUTPUT", help="File NAME.pb to create for ResNet50, or folder for half-plus-two"),
    ],
    seed: Annotated[int, typer.Option(help="Random seed for the weights of ResNet50")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file")] = False,
) -> None:
    """Create an example: ResNet50 v1.5 (random weights, frozen graph), or half-plus-two (a small SavedModel)."""
    if destination.suffix != ".pb":
        with console.quiet_libraries(), console.spinner("Writing half-plus-two"):
            write_half_plus_two(destination)
        console.out.print(f"Wrote the SavedModel {destination}: y = x / 2 + 2.")
        return
    options.refuse_existing(destination, force=force)
    with console.quiet_libraries(), console.spinner("Creating ResNet50 v1.5") as tell:
        build_frozen_graph(destination, seed=seed, progress=lambda text: tell(f"Creating ResNet50 v1.5: {text}"))
    console.out.print(f"Wrote {destination} ({destination.stat().st_size / 1e6:.0f} MB, weights from seed {seed}).")


@app.command()
def convert(
    context: Context,
    keep_frozen: Annotated[
        bool,
        typer.Option(
            "--keep-frozen",
            help="Keep large constants of a frozen graph; by default they become variables, which saves memory",
        ),
    ] = False,
    no_wait: options.NoWait = False,
) -> None:
    """Convert the models of sealserve.toml to SavedModels in the workspace.

    A model that was already converted is converted again only if its source or its settings changed.
    """
    with owning(context.workspace, "model convert", no_wait=no_wait):
        _convert(context, keep_frozen=keep_frozen)


def _convert(context: Context, *, keep_frozen: bool) -> None:
    workspace, described = context.workspace, context.deployment
    missing = [model for model in described.models if not models.is_imported(workspace, model)]
    with console.quiet_libraries(), console.spinner("Converting") as tell:
        imported = [
            models.bring_in(workspace, model, keep_frozen=keep_frozen, progress=tell, warn=console.warn)
            for model in missing
        ]
    updated = convert_again(workspace, described, say=console.say)
    for model in described.models:
        if model not in (*missing, *updated):
            console.say(f"{models.servable_folder(workspace, model)} is up to date.")
    infos = {model.folder: model.info for model in imported}
    folders = [models.servable_folder(workspace, model) for model in described.models]
    _show(context, [infos.get(folder) or describe(folder) for folder in folders])


@app.command()
def show(
    context: Context,
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="[SAVEDMODEL]", help="Folder of a SavedModel", show_default="all models of the workspace"
        ),
    ] = None,
    tags: Tags = "serve",
) -> None:
    """Show the signatures of SavedModels: names, types and shapes of inputs and outputs.

    The command does not load TensorFlow.
    """
    if folder is None:
        described = context.deployment
        folders = [models.servable_folder(context.workspace, model) for model in described.models]
    else:
        folders = [folder]
    served = SERVE_TAGS if folder is None else _tags(tags)
    _show(context, [describe(found, tags=served) for found in folders])


@app.command("lint")
def lint_(
    context: Context,
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="[SAVEDMODEL]", help="Folder of a SavedModel", show_default="all models of the workspace"
        ),
    ] = None,
    tags: Tags = "serve",
) -> None:
    """Check models for operations that are refused in an enclave.

    Such an operation could read or write files, use the network, or leak one client's data to another client.
    """
    linted = _linted(context, folder, tags)
    if context.as_json:
        context.show([asdict(found) for found in linted])
        return
    for found in linted:
        allowed = ", ".join(operation.operation for operation in found.allowed)
        permitted = f". Allowed by dangerous_operations: {allowed}" if allowed else ""
        console.out.print(f"{found.folder}: no refused operations{permitted}.")
        if found.unused:
            console.say(
                f"dangerous_operations lists operations that the model does not contain: {', '.join(found.unused)}."
            )


@app.command("optimize")
def optimize_(
    context: Context,
    folder: Annotated[Path, typer.Argument(metavar="SAVEDMODEL", help="Folder of the original SavedModel")],
    destination: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Folder of the new SavedModel")],
    precision: Annotated[
        Precision | None,
        typer.Option(help="Precision of the computation", show_default="the faster precision on the processor"),
    ] = None,
    processor: Annotated[
        Instructions | None,
        typer.Option(help="Instructions of the processor that will serve", show_default="this machine's"),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            "-i",
            metavar="NAME=VALUE",
            help="Input for the comparison: NAME=@FILE (.npy, .npz, .json) or NAME=JSON; repeat for each input",
            show_default="generated values",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of generated inputs")] = 0,
    rows: Annotated[int, typer.Option(min=1, help="Number of rows in generated inputs")] = 64,
    min_top1: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Minimum share of rows with the same highest class or the same value",
            show_default="0.99",
        ),
    ] = None,
    min_top5: Annotated[
        float | None, typer.Option(min=0, max=1, help="Minimum share of the five highest classes in common")
    ] = None,
    max_difference: Annotated[
        float | None, typer.Option(min=0, help="Maximum absolute difference of a number in an output")
    ] = None,
    max_relative_difference: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Maximum mean difference, as a share of the largest number in an output",
            show_default="0.02 for bfloat16, 0.0001 for float32",
        ),
    ] = None,
    tags: Tags = "serve",
) -> None:
    """Write a faster form of a SavedModel, and compare its outputs with the original's.

    The names, types and shapes of inputs and outputs stay the same. The output folder appears only if the outputs
    agree.
    """
    report = optimize_model(
        folder,
        destination,
        choice=OptimizationChoice(precision=precision, processor=processor, inputs=inputs or (), tags=_tags(tags)),
        generated=GeneratedInputs(seed=seed, rows=rows),
        thresholds=Thresholds(
            top1=min_top1, top5=min_top5, difference=max_difference, relative_difference=max_relative_difference
        ),
    )
    context.show(optimization_as_json(destination, report), *optimization_as_text(destination, report))


@app.command("test")
def try_signatures(
    context: Context,
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="[SAVEDMODEL]", help="Folder of a SavedModel", show_default="all models of the workspace"
        ),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            "-i",
            metavar="NAME=VALUE",
            help="Input: NAME=@FILE (.npy, .npz, .json), NAME=JSON, or NAME=random; repeat for each input",
            show_default="generated values",
        ),
    ] = None,
    signature: Annotated[
        str | None, typer.Option("--signature", help="Name of the signature to run", show_default="all signatures")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Number of rows in generated inputs")] = 1,
    timeout: Annotated[float, typer.Option(min=0.1, help="Maximum time for each signature, in seconds")] = 60.0,
    tags: Tags = "serve",
) -> None:
    """Run each signature of a model once, as the embedded server would, before the model is sealed."""
    # Check the models first: a model with dangerous operations could read keys on this machine.
    folders = [found.folder for found in _linted(context, folder, tags)]
    served = SERVE_TAGS if folder is None else _tags(tags)
    choice = Choice(inputs=inputs or (), signature=signature, batch=batch, timeout=timeout, tags=served)
    with console.spinner("Loading the model") as tell:
        tried = [(each, run_signatures(each, choice, tell=lambda name: tell(f"Running {name}"))) for each in folders]
    outcomes = [(each, outcome) for each, found in tried for outcome in found]
    rows = [(each, outcome.signature, _result(outcome)) for each, outcome in outcomes]
    context.show(
        [{"folder": str(each), **_outcome_as_json(outcome)} for each, outcome in outcomes],
        Table(("MODEL", "SIGNATURE", "RESULT"), rows),
    )
    failed = [outcome for _, outcome in outcomes if outcome.error is not None]
    skipped = [outcome for _, outcome in outcomes if outcome.skipped is not None]
    if failed:
        console.say(
            f"{len(failed)} of {len(outcomes)} signatures failed. Give other inputs with --input, or export the model "
            "again and run `sealserve model convert`."
        )
        raise typer.Exit(VerificationError.exit_status)
    if skipped:
        console.say("Some signatures were skipped, because they need inputs: give inputs with --input.")
        raise typer.Exit(InputError.exit_status)


def _linted(context: Context, folder: Path | None, tags: str) -> tuple[LintedModel, ...]:
    """Check a SavedModel, or without a folder all models of the workspace, which have the tag ``serve``."""
    if folder is None:
        described = context.deployment
        return models.check(context.workspace, described.models, server=described.server.kind, warn=console.warn)
    linted = lint(folder, tags=_tags(tags))
    for sentence in linted.warnings:
        console.warn(f"{folder}: {sentence}")
    return (linted,)


def _outcome_as_json(outcome: Outcome) -> dict[str, Any]:
    ok = outcome.error is None and outcome.skipped is None
    return {**asdict(outcome), "ok": ok}


def _result(outcome: Outcome) -> str:
    if outcome.skipped is not None:
        return f"skipped: {outcome.skipped}"
    if outcome.error is not None:
        return f"failed: {' '.join(outcome.error.split())}"
    shapes = ", ".join(f"{name} {list(shape)}" for name, shape in (outcome.outputs or {}).items())
    return f"ok in {outcome.seconds * 1000:.1f} ms: {shapes}"


def _show(context: Context, infos: list[SavedModelInfo]) -> None:
    parts = [part for info in infos for part in ("", *_text(info))]
    context.show([_as_json(info) for info in infos], *parts[1:])


def _tags(text: str) -> list[str]:
    return [tag for tag in text.split(",") if tag]


def _as_json(info: SavedModelInfo) -> dict[str, Any]:
    graph, report = info.serving_graph, find_report(info.folder)
    return {
        "folder": str(info.folder),
        "files": info.files,
        "size": info.size,
        "tensorflow_version": graph.tensorflow_version,
        "optimization": None if report is None else {"original": report.original, "precision": report.precision},
        "signatures": {
            signature.name: {
                "method": signature.method,
                "inputs": {spec.name: {"dtype": spec.dtype, "shape": spec.shape} for spec in signature.inputs},
                "outputs": {spec.name: {"dtype": spec.dtype, "shape": spec.shape} for spec in signature.outputs},
            }
            for signature in graph.signatures
        },
    }


def _text(info: SavedModelInfo) -> tuple[Text, Text]:
    graph = info.serving_graph
    fields = {"folder": info.folder, "size": f"{info.size / 1e6:.1f} MB in {info.files} files",
              "written by": f"TensorFlow {graph.tensorflow_version}"}  # fmt: skip
    if (report := find_report(info.folder)) is not None:
        fields["optimized"] = f"{report.precision}, from the model with SHA-256 {report.original}"
    rows = [
        (signature.name, direction, spec.name, spec.dtype, _shape(spec))
        for signature in graph.signatures
        for direction, specs in (("in", signature.inputs), ("out", signature.outputs))
        for spec in specs
    ]
    return fields, Table(("SIGNATURE", "", "NAME", "TYPE", "SHAPE"), rows)


def _shape(spec: TensorSpec) -> str:
    return "any" if spec.shape is None else " x ".join("?" if size is None else str(size) for size in spec.shape)
