"""A process that runs a SavedModel as a loop, for `optimize.py`.

    python optimize_loop.py tensorflow|server SAVED_MODEL INPUT SIDE

``tensorflow`` is TensorFlow with its default settings, as TensorFlow Serving runs a model. ``server`` is the model
server's loader and its session. Both have one thread. The process reads lines "RUNS BATCH". For each line, it
prints the least seconds and the least processor seconds of a run.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
Run = Callable[[np.ndarray], object]


def tensorflow(folder: Path, name: str) -> Run:
    """Load the model with TensorFlow's own loader and default settings."""
    import tensorflow as tf  # noqa: PLC0415

    config = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1)
    session = tf.compat.v1.Session(graph=tf.Graph(), config=config)
    with session.graph.as_default():
        loaded = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(folder))
    signature = loaded.signature_def["serving_default"]
    outputs = [info.name for info in signature.outputs.values()]
    call = session.make_callable(outputs, [signature.inputs[name].name])
    return cast("Run", call)


def server(folder: Path, name: str) -> Run:
    """Load the model with the model server's loader."""
    from sealserve.serving.command_line import options  # noqa: PLC0415
    from sealserve.serving.command_line.options import ServerOptions  # noqa: PLC0415
    from sealserve.serving.lifecycle.loading import Loader  # noqa: PLC0415
    from sealserve.serving.runtime.protos import TensorProto  # noqa: PLC0415
    from sealserve.serving.runtime.tensors import Tensor  # noqa: PLC0415

    chosen = options.parse(
        [f"--model_base_path={folder.parent}", "--tensorflow_session_parallelism=1", "--dangerous_plaintext"]
    )
    servable = Loader(options=cast("ServerOptions", chosen), files=None).load("m", 1, folder)
    session: Any = servable.session
    definition = servable.definitions["serving_default"]
    tensors: dict[int, Tensor] = {}
    fed = session.endpoint(definition.inputs[name].name)
    fetched = [session.output("serving_default", info.name) for info in definition.outputs.values()]

    def run(pictures: np.ndarray) -> object:
        if len(pictures) not in tensors:
            proto = TensorProto(dtype=1, tensor_content=pictures.tobytes())
            for size in pictures.shape:
                proto.tensor_shape.dim.add(size=size)
            tensors[len(pictures)] = Tensor.from_proto(session.library, proto.SerializeToString())
        return session.run([(fed, tensors[len(pictures)])], fetched)

    return run


def main() -> None:
    """Load the model, and measure as requested."""
    kind, folder, name, side = sys.argv[1:5]
    run = {"tensorflow": tensorflow, "server": server}[kind](Path(folder), name)
    generator = np.random.default_rng(0)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        runs, batch = map(int, line.split())
        pictures = generator.random((batch, int(side), int(side), 3), np.float32)
        run(pictures)
        seconds, processor = [], []
        for _ in range(runs):
            started, used = time.perf_counter(), time.process_time()
            run(pictures)
            seconds.append(time.perf_counter() - started)
            processor.append(time.process_time() - used)
        print(json.dumps([min(seconds), min(processor)]), flush=True)


if __name__ == "__main__":
    main()
