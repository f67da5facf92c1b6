"""The gain of bfloat16 in bare kernels of oneDNN, for `optimize.py`: the limit for a whole model.

    python optimize_limit.py RUNS

It prints one JSON object: seconds of each kernel in both precisions, with constant weights and one thread.
"""

import json
import os
import sys
import time

import numpy as np

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
import tensorflow as tf

KERNELS = {
    "matmul 1024": lambda x, w: tf.raw_ops.MatMul(a=x, b=w),
    "convolution 3x3, 14x14x256, batch 8": lambda x, w: tf.raw_ops.Conv2D(
        input=x, filter=w, strides=[1, 1, 1, 1], padding="SAME"
    ),
    "convolution 1x1, 56x56x64 to 256, batch 8": lambda x, w: tf.raw_ops.Conv2D(
        input=x, filter=w, strides=[1, 1, 1, 1], padding="SAME"
    ),
}
SHAPES = {
    "matmul 1024": ((1024, 1024), (1024, 1024)),
    "convolution 3x3, 14x14x256, batch 8": ((8, 14, 14, 256), (3, 3, 256, 256)),
    "convolution 1x1, 56x56x64 to 256, batch 8": ((8, 56, 56, 64), (1, 1, 64, 256)),
}


def seconds(name: str, dtype: tf.DType, runs: int) -> float:
    """Return the least processor seconds of a kernel."""
    generator = np.random.default_rng(0)
    given, weights = (generator.standard_normal(shape).astype(np.float32) for shape in SHAPES[name])
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(dtype, given.shape)
        call = KERNELS[name](x, tf.constant(weights, dtype))
        config = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1)
        with tf.compat.v1.Session(graph=graph, config=config) as session:
            run = session.make_callable(call.op, [x])
            values = given.astype(dtype.as_numpy_dtype)
            found = []
            for _ in range(runs + 2):
                started = time.process_time()
                run(values)
                found.append(time.process_time() - started)
    return min(found)


def main() -> None:
    """Measure, and print the result."""
    runs = int(sys.argv[1])
    result = {}
    for name in KERNELS:
        float32, bfloat16 = (seconds(name, dtype, runs) for dtype in (tf.float32, tf.bfloat16))
        result[name] = {"float32": float32, "bfloat16": bfloat16, "ratio": float32 / bfloat16}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
