"""The process that loads a model and runs its signatures, see `sealserve.model.tensorflow_process`.

Its messages:

- ``{"loaded": true}``, or ``{"failed": TEXT}`` as the only line.
- For each signature ``{"running": NAME}``, then ``{"ran": NAME, "seconds": S, "outputs": {NAME: SHAPE}}`` or
  ``{"ran": NAME, "error": TEXT}``.
"""

import base64
import time
from pathlib import Path
from typing import Any, cast

from sealserve.cli.trial.order import NAME, Order
from sealserve.errors import SealserveError
from sealserve.model.tensorflow_process import messages, read_order
from sealserve.serving.api.predict import run_predict
from sealserve.serving.command_line import options
from sealserve.serving.command_line.options import ServerOptions
from sealserve.serving.lifecycle.loading import Loader
from sealserve.serving.runtime.libtensorflow import TensorFlowError
from sealserve.serving.runtime.protos import PredictRequest
from sealserve.serving.servables import Servable


def main() -> None:
    """Load the model, run each request, and write the results to standard output."""
    say = messages()
    order = Order(**read_order())
    try:
        servable = _load(Path(order.folder), order.tags)
    except SealserveError as error:
        say(failed=error.message)
        return
    say(loaded=True)
    for signature, content in order.requests.items():
        say(running=signature)
        say(ran=signature, **_run(servable, base64.b64decode(content)))


def _load(folder: Path, tags: list[str]) -> Servable:
    chosen = options.parse(
        [
            f"--model_base_path={folder.parent}",
            f"--model_name={NAME}",
            f"--saved_model_tags={','.join(tags)}",
            "--tensorflow_intra_op_parallelism=1",
            "--tensorflow_inter_op_parallelism=1",
            "--dangerous_plaintext",  # safe, because this process does not listen on a port
        ]
    )
    return Loader(options=cast("ServerOptions", chosen), files=None).load(NAME, 1, folder)


def _run(servable: Servable, content: bytes) -> dict[str, Any]:
    """Run a request, and return its duration and output shapes, or TensorFlow's error message for the model's owner."""
    started = time.monotonic()
    try:
        response = run_predict(servable, PredictRequest.FromString(content))
    except SealserveError as error:
        cause = error.__cause__
        text = f"{cause.status.name}: {cause.text}" if isinstance(cause, TensorFlowError) else error.message
        return {"error": text}
    shapes = {name: [dim.size for dim in output.tensor_shape.dim] for name, output in response.outputs.items()}
    return {"seconds": time.monotonic() - started, "outputs": dict(sorted(shapes.items()))}


if __name__ == "__main__":
    main()
