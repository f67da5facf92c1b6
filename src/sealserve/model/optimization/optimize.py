"""Optimize a SavedModel for serving, and compare the result with the original before it is used."""

import base64
import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt

from sealserve import __version__
from sealserve.atomic_file import OutputExistsError
from sealserve.model.codes import ModelCode
from sealserve.model.lint import RefusedOperationError, lint
from sealserve.model.optimization.acceptance import Thresholds, check
from sealserve.model.optimization.given_inputs import check_given
from sealserve.model.optimization.order import Failure, Order
from sealserve.model.optimization.origin import Origin
from sealserve.model.optimization.report import Changes, Report, digest_of_model, find_report
from sealserve.model.saved_model import SAVED_MODEL_FILE, SERVE_TAGS, check_servable, plain_files
from sealserve.model.source import SIGNATURE_FILE
from sealserve.model.tensorflow_import import require_tensorflow
from sealserve.model.tensorflow_process import TensorFlowProcess
from sealserve.serving_interface import OPTIMIZATION_FILE
from sealserve.terms import Precision
from sealserve.whole_folder import appearing

_NOT_COPIED: Final = frozenset({SAVED_MODEL_FILE, "fingerprint.pb", "keras_metadata.pb", SIGNATURE_FILE})
"""Files of the original that do not describe the result. A signature covers the original's files only."""
_VARIABLES: Final = "variables"
_NUMBERS: Final = "inputs.npz"
_LARGEST_WEIGHTS: Final = 2**31 - 2**26
"""Maximum size of the variables in bytes. In between, they are in one message of protobuf with 2 GiB at most."""
_CODES: Final = {
    Failure.INPUTS: ModelCode.OPTIMIZATION_INPUTS,
    Failure.UNCHANGED: ModelCode.NOTHING_TO_OPTIMIZE,
    Failure.NOT_OPTIMIZABLE: ModelCode.NOT_OPTIMIZABLE,
    Failure.UNPROVEN: ModelCode.OPTIMIZATION_UNPROVEN,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """The inputs for the comparison.

    Args:
        given: Arrays by the names of inputs. All other inputs are generated: floats from 0 to 1, integers 0 and 1.
        seed: The seed of generated inputs.
        rows: The number of rows of generated inputs, if the model leaves it open.
        batch: The maximum number of rows of one run.
    """

    given: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    seed: int = 0
    rows: int = 64
    batch: int = 8


def optimize(
    source: Path,
    destination: Path,
    *,
    precision: Precision,
    tags: Sequence[str] = SERVE_TAGS,
    inputs: Inputs | None = None,
    thresholds: Thresholds | None = None,
    origin: Origin | None = None,
    instructions: str = "",
    timeout: float = 3600.0,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Write the optimized form of a SavedModel to a new folder. The folder appears only if the outputs agree.

    Args:
        source: The original SavedModel.
        destination: The folder of the result.
        precision: The precision of the result. Inputs and outputs keep their names, types and shapes.
        tags: The tags of the graph that is served. The result has one graph with the tag ``serve``.
        inputs: The inputs for the comparison.
        thresholds: The smallest agreement that is accepted.
        origin: The owner's model, if ``source`` is a converted copy of it. Messages and the record name it.
        instructions: The widest instructions of this machine's processor, for the record.
        timeout: Maximum time in seconds.
        progress: Called at the start of each step.

    Raises:
        InputError: `model.already-optimized`: The model was optimized before.
        InputError: `model.not-optimizable`: The model has operations that the lint rejects, TensorFlow fails, or the
            model is too large.
        InputError: `model.nothing-to-optimize`: The optimization would not change the model.
        InputError: `model.optimization-unproven`: The outputs cannot be compared, an output has no values, or a given
            threshold applies to no output.
        VerificationError: `model.optimization-differs`: The outputs agree less than ``thresholds`` require.
        InputError: `model.optimization-inputs`: A given input does not exist in the model, has another type or shape,
            or the original rejects it.
        OutputExistsError: The destination already exists.
        UnavailableError: `model.tensorflow-missing`: TensorFlow is not installed.
        UnavailableError: `file.disk-full`: The disk is full.
        InputError: As `sealserve.model.saved_model.check_servable`.
    """
    tell, chosen = progress or (lambda _: None), inputs or Inputs()
    # 1. Check the model first, because the process runs it on this machine.
    require_tensorflow("The model cannot be optimized")
    before = check_servable(source, tags=tags)
    known = origin or Origin(name=str(source), digest=digest_of_model(source))
    if find_report(source) is not None:
        raise ModelCode.ALREADY_OPTIMIZED.error(
            f"{known.name} was already optimized: it contains {OPTIMIZATION_FILE}.",
            hint="Optimize the original model, or serve this model without the setting model.optimize.",
        )
    _lint(source, tags, known)
    check_given(chosen.given, before.serving_graph.signatures)
    weights = sum(file.stat().st_size for file in plain_files(source) if file.parent.name == _VARIABLES)
    if weights > _LARGEST_WEIGHTS:
        raise ModelCode.NOT_OPTIMIZABLE.error(
            f"{known.name} cannot be optimized: expected at most {_LARGEST_WEIGHTS} bytes of variables, got {weights}.",
            hint="Serve the model as it is.",
        )
    if destination.resolve().is_relative_to(source.resolve()):
        raise OutputExistsError(
            f"{destination} cannot be created: it is inside the source {source}.", hint="Give a different destination."
        )
    with appearing(destination) as temporary:
        # 2. Copy the assets, and everything else that does not describe the original's graph.
        for file in plain_files(source):
            path = file.relative_to(source)
            if path.parts[0] not in {*_NOT_COPIED, _VARIABLES}:
                (temporary / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, temporary / path)
        # 3. Optimize and compare in a separate process.
        with _stored(chosen, temporary) as (numbers, texts):
            order = Order(
                folder=str(source.resolve()),
                tags=list(tags),
                destination=str(temporary.resolve()),
                precision=precision,
                seed=chosen.seed,
                rows=chosen.rows,
                batch=chosen.batch,
                numbers=numbers,
                strings=texts,
            )
            result = _run(order, known, timeout, tell)
        # 4. The interface must be equal, and an enclave must accept the result.
        tell("checking the result")
        after = check_servable(temporary)
        _lint(temporary, SERVE_TAGS, known)
        if after.serving_graph.signatures != before.serving_graph.signatures:
            raise ModelCode.NOT_OPTIMIZABLE.error(
                f"{known.name} cannot be optimized: its signatures would change.", hint="Report this error."
            )
        report = Report(
            original=known.digest,
            precision=precision,
            sealserve=__version__,
            tensorflow=result["tensorflow"],
            instructions=instructions,
            seed=chosen.seed,
            given=tuple(sorted(chosen.given)),
            changes=Changes(**result["changes"], bytes_before=before.size, bytes_after=after.size),
            signatures=result["signatures"],
            skipped=result["skipped"],
        )
        # 5. Accept the result only if the outputs agree.
        check(report, thresholds or Thresholds(), known)
        record = temporary / OPTIMIZATION_FILE
        record.parent.mkdir(exist_ok=True)
        record.write_bytes(report.to_bytes())
    return report


def _lint(folder: Path, tags: Sequence[str], origin: Origin) -> None:
    """Lint the original or the result. An error names the model as ``origin`` does."""
    try:
        lint(folder, tags=tags)
    except RefusedOperationError as error:
        raise ModelCode.NOT_OPTIMIZABLE.error(
            f"{origin.name} cannot be optimized, because effects of operations could get lost. "
            f"{_named(error.message, folder, origin)}",
            hint="Serve the model as it is, or export it without these operations.",
        ) from error


@contextlib.contextmanager
def _stored(inputs: Inputs, folder: Path) -> Iterator[tuple[str | None, dict[str, Any]]]:
    """Yield the given inputs as an `Order` has them: the numbers in a private file, and the texts.

    The file is in ``folder`` until the end of the block. An interrupted optimization thus leaves no inputs elsewhere.
    """
    numbers = {name: array for name, array in inputs.given.items() if array.dtype.kind not in "OSU"}
    texts = {name: _text(array) for name, array in inputs.given.items() if name not in numbers}
    with tempfile.TemporaryDirectory(dir=folder) as private:
        if numbers:
            np.savez(Path(private, _NUMBERS), **numbers)  # type: ignore[arg-type]  # numpy declares its own keywords
        yield str(Path(private, _NUMBERS)) if numbers else None, texts


def _run(order: Order, origin: Origin, timeout: float, tell: Callable[[str], None]) -> dict[str, Any]:
    """Run the process, and return its result. An error names the model as ``origin`` does.

    Raises:
        OSError: The disk is full.
    """
    message = _answer(order, timeout, tell)
    if "done" in message:
        return cast("dict[str, Any]", message["done"])
    failure = Failure(message["failed"])
    if failure is Failure.NO_ROOM:
        raise OSError(message["errno"], os.strerror(message["errno"]))
    text = _named(_named(message["text"].rstrip("."), order.folder, origin), order.destination, origin)
    if failure is Failure.INPUTS:
        text = f"The inputs for the comparison do not fit the model: {text}."
    else:
        what = "cannot be compared with its original" if failure is Failure.UNPROVEN else "cannot be optimized"
        text = f"{origin.name} {what}: {text}."
    raise _CODES[failure].error(text, hint=_hint(failure, origin))


def _hint(failure: Failure, origin: Origin) -> str:
    if failure is Failure.UNCHANGED:
        return "Serve the model as it is."
    if failure is Failure.NOT_OPTIMIZABLE:
        return "Serve the model as it is, or export it again."
    return f"Give typical inputs: {origin.options.inputs}."


def _named(text: str, folder: Path | str, origin: Origin) -> str:
    """Return a text with the owner's model instead of a copy of it in ``folder``."""
    return text.replace(str(folder), origin.name)


def _answer(order: Order, timeout: float, tell: Callable[[str], None]) -> dict[str, Any]:
    """Start the process, and return its last message."""
    deadline = time.monotonic() + timeout
    last: dict[str, Any] = {"step": "starting"}
    with TensorFlowProcess("sealserve.model.optimization.worker", order) as process:
        while "step" in last:
            try:
                message = process.next_message(max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                return _ended(last, f"no result in {timeout:g} seconds")
            if message is None:
                return _ended(last, f"TensorFlow ended the process ({process.ending()})")
            if "step" in message:
                tell(message["step"])
            last = message
    return last


def _ended(last: Mapping[str, Any], reason: str) -> dict[str, Any]:
    return {"failed": Failure.NOT_OPTIMIZABLE, "text": f"{last['step']}: {reason}"}


def _text(array: npt.NDArray[Any]) -> dict[str, Any]:
    values = [value if isinstance(value, bytes) else str(value).encode() for value in array.reshape(-1)]
    return {"shape": list(array.shape), "values": [base64.b64encode(value).decode() for value in values]}
