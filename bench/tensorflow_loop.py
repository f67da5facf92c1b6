"""TensorFlow called in a loop, in a process of its own: the limit that a server can reach.

    python tensorflow_loop.py SAVED_MODEL INPUT OUTPUT BATCH THREADS

Reads lines "REQUESTS CONCURRENCY", and answers each with the requests per second of so many threads in a loop.
"""

import os
import sys
import threading
import time

import numpy as np

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import tensorflow as tf


def main() -> None:
    """Load the model, and measure what is asked for."""
    folder, name, output, batch, threads = sys.argv[1:6]
    tf.config.threading.set_intra_op_parallelism_threads(int(threads))
    tf.config.threading.set_inter_op_parallelism_threads(int(threads))
    loaded = tf.saved_model.load(folder)
    call = loaded.signatures["serving_default"]
    pictures = tf.constant(np.random.default_rng(0).random((int(batch), 224, 224, 3), np.float32))

    def loop(requests: int) -> None:
        for _ in range(requests):
            call(**{name: pictures})[output].numpy()

    loop(2)
    print("ready", flush=True)
    for line in sys.stdin:
        requests, concurrency = map(int, line.split())
        workers = [threading.Thread(target=loop, args=(requests // concurrency,)) for _ in range(concurrency)]
        started = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        print(requests // concurrency * concurrency / (time.perf_counter() - started), flush=True)


if __name__ == "__main__":
    main()
