"""Run each signature of a SavedModel once, with inputs that fit it, in a separate process."""

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from sealserve.cli.codes import CliCode
from sealserve.cli.generated_input import TensorInputError
from sealserve.cli.tensor_input import RANDOM, read_inputs
from sealserve.cli.trial.order import NAME, Order
from sealserve.client.credentials import printable
from sealserve.client.predict import Signature, TensorSpec
from sealserve.client.tensors import TensorTypeError, to_proto
from sealserve.client.wire.model_pb2 import ModelSpec
from sealserve.client.wire.predict_pb2 import PredictRequest
from sealserve.model.saved_model import SERVE_TAGS, SavedSignature, check_servable
from sealserve.model.tensorflow_import import require_tensorflow
from sealserve.model.tensorflow_process import TensorFlowProcess

_ENDED: Final = "TensorFlow crashed or exited"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The result of a signature.

    Args:
        signature: Name of the signature.
        error: Reason why the signature failed, or None.
        skipped: Reason why the signature was not run, or None.
        seconds: Duration of the run.
        outputs: Shapes of the outputs by name.
    """

    signature: str
    error: str | None = None
    skipped: str | None = None
    seconds: float = 0.0
    outputs: Mapping[str, tuple[int, ...]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Options for running signatures.

    Args:
        inputs: ``NAME=VALUE`` for inputs of one or several signatures. All other inputs are generated.
        signature: The only signature to run, or None for all.
        batch: Size of the first dimension of generated inputs, if the model leaves it open.
        timeout: Maximum time for a signature, in seconds.
        tags: Tags of the graph that is served.
    """

    inputs: Sequence[str] = ()
    signature: str | None = None
    batch: int = 1
    timeout: float = 60.0
    tags: Sequence[str] = SERVE_TAGS


def run_signatures(folder: Path, choice: Choice, *, tell: Callable[[str], None]) -> list[Outcome]:
    """Run each signature of the SavedModel ``folder`` once.

    Args:
        folder: The SavedModel.
        choice: The inputs and limits.
        tell: Called with the name of each signature before it runs.

    Raises:
        TensorInputError: A given input or signature does not exist in the model.
        VerificationError: `model.not-loadable`: The model cannot be loaded.
        UnavailableError: `model.tensorflow-missing`: TensorFlow is not installed.
        InputError: As `sealserve.model.saved_model.check_servable`.
    """
    require_tensorflow("The model cannot be run")
    signatures = check_servable(folder, tags=choice.tags).serving_graph.signatures
    _check_choice(signatures, choice)
    found: dict[str, Outcome] = {}
    requests: dict[str, bytes] = {}
    for signature in signatures:
        if choice.signature not in {None, signature.name}:
            continue
        found[signature.name] = Outcome(signature=signature.name)
        try:
            requests[signature.name] = _request(signature, choice)
        except (TensorInputError, TensorTypeError) as error:
            found[signature.name] = replace(found[signature.name], skipped=str(error))
    while requests:  # one process for all requests; after a crash, a new process for the remaining requests
        for outcome in list(_in_a_process(folder, choice, requests, tell)):
            found[outcome.signature] = outcome
            del requests[outcome.signature]
    return list(found.values())


def _check_choice(signatures: Sequence[SavedSignature], choice: Choice) -> None:
    names = [signature.name for signature in signatures]
    if choice.signature is not None and choice.signature not in names:
        raise TensorInputError(
            f"The signature {choice.signature!r} does not exist in the model.",
            hint=f"Choose one of these signatures: {', '.join(names)}.",
        )
    inputs = {spec.name for signature in signatures for spec in signature.inputs}
    for text in choice.inputs:
        name, separator, _ = text.partition("=")
        if not separator or name not in inputs:
            raise TensorInputError(
                f"An input is invalid: expected NAME=VALUE with the name of an input, got {text[:60]!r}.",
                hint=f"Use one of these inputs: {', '.join(sorted(inputs))}.",
            )


def _request(signature: SavedSignature, choice: Choice) -> bytes:
    inputs = {spec.name: TensorSpec(spec.dtype, spec.shape) for spec in signature.inputs}
    given = [text for text in choice.inputs if text.partition("=")[0] in inputs]
    for name in inputs.keys() - {text.partition("=")[0] for text in given}:
        if inputs[name].dtype == "string":  # a wrong guess would look like an error of the model
            raise TensorInputError(
                f"The input {printable(name, 60)!r} needs a value: a random string may not be valid for it.",
                hint=f"Give a value: --input {printable(name, 60)}=VALUE.",
            )
        given.append(f"{name}={RANDOM}")
    takes = Signature(method=signature.method, inputs=inputs, outputs={})
    arrays = read_inputs(given, takes).complete(batch=choice.batch, seed=0) if inputs else {}
    request = PredictRequest(model_spec=ModelSpec(name=NAME, signature_name=signature.name))
    for name, array in arrays.items():
        request.inputs[name].CopyFrom(to_proto(array))
    return request.SerializeToString()


def _in_a_process(
    folder: Path, choice: Choice, requests: Mapping[str, bytes], tell: Callable[[str], None]
) -> Iterator[Outcome]:
    """Yield the outcomes of the requests that one process runs, including a request that crashes the process."""
    encoded = {name: base64.b64encode(content).decode() for name, content in requests.items()}
    order = Order(folder=str(folder.resolve()), tags=list(choice.tags), requests=encoded)
    with TensorFlowProcess("sealserve.cli.trial.process", order) as process:
        running: str | None = None
        left = len(requests)
        while left:
            # 1. Loading may take any time. A request may not.
            try:
                message = process.next_message(choice.timeout if running else None)
            except TimeoutError:
                yield Outcome(signature=str(running), error=f"no answer in {choice.timeout:g} seconds")
                return
            # 2. The end of the process is the outcome of the request that ran.
            if message is None:
                ended = f"{_ENDED} ({process.ending()})"
                if running is None:
                    raise CliCode.MODEL_NOT_LOADABLE.error(
                        f"The model {folder} cannot be loaded: {ended}.", hint="Export the model again."
                    )
                yield Outcome(signature=running, error=ended)
                return
            if "failed" in message:
                raise CliCode.MODEL_NOT_LOADABLE.error(
                    message["failed"], hint="Run `sealserve model lint` to find the reason, or export the model again."
                )
            if "running" in message:
                running = message["running"]
                tell(message["running"])
            if "ran" in message:
                running, left = None, left - 1
                shapes = {name: tuple(shape) for name, shape in message.get("outputs", {}).items()}
                yield Outcome(
                    signature=message["ran"],
                    error=message.get("error"),
                    seconds=message.get("seconds", 0.0),
                    outputs=shapes,
                )
