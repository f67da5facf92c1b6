"""TensorFlow in a loop in a separate process: the limit for the speed of a server.

    python tensorflow_loop.py SAVED_MODEL INPUT OUTPUT BATCH THREADS

It reads lines "REQUESTS CONCURRENCY", and prints the requests per second of CONCURRENCY threads for each line.
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
    """Load the model, and measure as requested."""
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
