"""``sealserve model optimize``: read the inputs, choose the precision, and show the agreement with the original."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy.typing as npt

from sealserve.cli import console
from sealserve.cli.generated_input import TensorInputError
from sealserve.cli.input_files import STANDARD_INPUT
from sealserve.cli.output import Table, Text
from sealserve.cli.tensor_input import read_inputs
from sealserve.client.credentials import printable
from sealserve.client.predict import Signature, TensorSpec
from sealserve.host.processor import read_processor
from sealserve.model.optimization.acceptance import Thresholds
from sealserve.model.optimization.instructions import Instructions
from sealserve.model.optimization.optimize import Inputs, optimize
from sealserve.model.optimization.report import Report
from sealserve.model.saved_model import SERVE_TAGS, check_servable
from sealserve.terms import Precision

_NONE: Final = "-"
_STANDARD_INPUT: Final = f"@{STANDARD_INPUT}"


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizationChoice:
    """Options of an optimization.

    Args:
        precision: The precision, or None for the faster precision on the processor.
        processor: The instructions of the processor that will serve, or None for this machine's.
        inputs: ``NAME=VALUE`` for inputs of one or several signatures. All other inputs are generated.
        tags: Tags of the graph that is served.
    """

    precision: Precision | None = None
    processor: Instructions | None = None
    inputs: Sequence[str] = ()
    tags: Sequence[str] = SERVE_TAGS


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedInputs:
    """The seed and the number of rows of generated inputs."""

    seed: int
    rows: int


def optimize_model(
    folder: Path,
    destination: Path,
    *,
    choice: OptimizationChoice,
    generated: GeneratedInputs,
    thresholds: Thresholds,
) -> Report:
    """Optimize a SavedModel, and warn if the choice is slow or the comparison incomplete.

    Raises:
        TensorInputError: An input does not exist in the model, or cannot be read.
        SealserveError: As `sealserve.model.optimization.optimize.optimize`.
    """
    here = Instructions.of(read_processor().flags)
    serving = choice.processor or here
    precision = choice.precision or serving.precision
    given = _given(folder, choice)
    with console.spinner("Optimizing") as tell:
        report = optimize(
            folder,
            destination,
            precision=precision,
            tags=choice.tags,
            inputs=Inputs(given=given, seed=generated.seed, rows=generated.rows),
            thresholds=thresholds,
            instructions=here,
            progress=lambda step: tell(f"Optimizing: {step}"),
        )
    for sentence in report.warnings(serving):
        console.warn(sentence)
    return report


def optimization_as_json(destination: Path, report: Report) -> dict[str, Any]:
    """Return a report as JSON."""
    return {"folder": str(destination), **report.model_dump(mode="json")}


def optimization_as_text(destination: Path, report: Report) -> tuple[Text, Text]:
    """Return a report for people: the changes, and one row for each output."""
    changes = report.changes
    inputs = f"given: {printable(', '.join(report.given))}" if report.given else f"generated from seed {report.seed}"
    fields = {
        "folder": destination,
        "precision": report.precision,
        "original": f"SHA-256 {report.original}",
        "size": f"{changes.bytes_before / 1e6:.1f} MB before, {changes.bytes_after / 1e6:.1f} MB now",
        "operations": f"{changes.nodes_before} before, {changes.nodes_after} now, {changes.bfloat16_nodes} in bfloat16",
        "inputs": inputs,
    }
    rows = [
        (
            signature,
            output,
            str(found.rows),
            _share(found.top1),
            _share(found.top5),
            _number(found.max_difference),
            _number(found.mean_difference),
            _share(found.relative_difference),
        )
        for signature, output, found in report.agreements
    ]
    return fields, Table(
        ("SIGNATURE", "OUTPUT", "ROWS", "TOP-1", "TOP-5", "MAX DIFFERENCE", "MEAN DIFFERENCE", "RELATIVE"), rows
    )


def _given(folder: Path, choice: OptimizationChoice) -> Mapping[str, npt.NDArray[Any]]:
    if not choice.inputs:
        return {}
    specs: dict[str, list[TensorSpec]] = {}  # several signatures can have inputs of the same name
    for signature in check_servable(folder, tags=choice.tags).serving_graph.signatures:
        for found in signature.inputs:
            specs.setdefault(found.name, []).append(TensorSpec(found.dtype, found.shape))
    for text in choice.inputs:
        name, separator, _ = text.partition("=")
        if not separator or name not in specs:
            raise TensorInputError(
                f"An input is invalid: expected NAME=VALUE with the name of an input, got {text[:60]!r}.",
                hint=f"Use one of these inputs: {printable(', '.join(sorted(specs)))}.",
            )
    named = {name: _readable(text, specs[name]) for text in choice.inputs if (name := text.partition("=")[0])}
    return read_inputs(choice.inputs, Signature(method="", inputs=named, outputs={})).arrays


def _readable(text: str, specs: Sequence[TensorSpec]) -> TensorSpec:
    """Return the first of an input's types and shapes as which its value can be read, or else the first one.

    Standard input can be read only once, so it is not tried.
    """
    name, _, value = text.partition("=")
    if value != _STANDARD_INPUT and len({spec.dtype for spec in specs}) > 1:
        for spec in specs:
            with contextlib.suppress(TensorInputError):
                read_inputs([text], Signature(method="", inputs={name: spec}, outputs={}))
                return spec
    return specs[0]


def _share(value: float | None) -> str:
    return _NONE if value is None else f"{100 * value:.2f} %"


def _number(value: float | None) -> str:
    return _NONE if value is None else f"{value:.3g}"
