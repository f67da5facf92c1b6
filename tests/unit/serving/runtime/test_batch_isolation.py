"""In a batch, the data of a request never reaches another request, regardless of the model.

The models' outputs have shapes that depend on values. Each answer must equal the request's answer when it runs alone,
or be an error.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.harness.errors import raises

from sealserve.serving.command_line.batching_options import BatchingOptions
from sealserve.serving.request_errors import RequestCode, RequestError, Status
from sealserve.serving.runtime import batch_rows
from sealserve.serving.runtime.batching import BatchingSession, BatchScheduler, _Task
from sealserve.serving.runtime.libtensorflow import Endpoint, TensorFlowError, library
from sealserve.serving.runtime.protos import DataType
from sealserve.serving.runtime.session import DeclaredShape, Session
from sealserve.serving.runtime.tensors import Tensor

pytestmark = pytest.mark.tensorflow

ALLOCATOR = "libc_malloc_debug.so.0"
FLOAT, INT = DataType.Value("DT_FLOAT"), DataType.Value("DT_INT32")


def save(folder: Path) -> None:
    import tensorflow as tf  # noqa: PLC0415  # seconds, and only here

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        lengths = v1.placeholder(tf.int32, [None], "lengths")
        pairs = v1.placeholder(tf.float32, [None, 2], "pairs")
        text = v1.placeholder(tf.string, [None], "text")
        anything = v1.placeholder(tf.float32, [None, None], "anything")
        open_rank = v1.placeholder(tf.float32, None, "open_rank")
        outputs = {
            "mask": (lengths, tf.cast(tf.sequence_mask(lengths), tf.int32)),
            "where": (pairs, tf.cast(tf.where(pairs > 0), tf.int32)),
            "boolean_mask": (pairs, tf.boolean_mask(pairs, pairs[:, 0] > 0)),
            "unique": (lengths, tf.unique(lengths)[0]),
            "ragged": (lengths, tf.ragged.range(lengths).to_tensor()),
            "split": (text, tf.strings.split(text).to_tensor()),
            "joined": (text, tf.strings.reduce_join(text)),
            "sum": (pairs, tf.reduce_sum(pairs)),
            "table": (pairs, tf.ones([4, 2])),
            "row_wise": (pairs, pairs * 2.0 + 1.0),
            "words": (text, tf.strings.join([text, text])),
            "same_width": (anything, anything + 1.0),
            "first_column": (anything, anything[:, :1]),
            "open_rank": (open_rank, open_rank + 1.0),
        }
        signatures = {
            name: v1.saved_model.predict_signature_def({"x": given}, {"y": tf.identity(output)})
            for name, (given, output) in outputs.items()
        }
        builder = v1.saved_model.Builder(str(folder / "1"))
        builder.add_meta_graph_and_variables(session, ["serve"], signature_def_map=signatures)
        builder.save()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    folder = tmp_path_factory.mktemp("isolation")
    save(folder)
    session = Session.load(library(), folder / "1", tags=["serve"], intra_op_threads=1, inter_op_threads=1)
    yield session
    session.close()


@pytest.fixture
def scheduler() -> Iterator[BatchScheduler]:
    made = BatchScheduler(threads=2)
    yield made
    made.close()


def tensor(values: Any) -> Tensor:
    if values and isinstance(values[0], str):
        return Tensor.from_strings(library(), [len(values)], [value.encode() for value in values])
    array = np.array(values, np.int32 if isinstance(values[0], int) else np.float32)
    return Tensor.from_bytes(library(), INT if array.dtype == np.int32 else FLOAT, array.shape, [array.tobytes()])


def read(tensor: Tensor) -> Any:
    if tensor.dtype == DataType.Value("DT_STRING"):
        return (tensor.shape, tensor.strings())
    return (
        np.frombuffer(tensor.content(), np.int32 if tensor.dtype == INT else np.float32).reshape(tensor.shape).tolist()
    )


class Asked:
    """One signature of the model, alone and behind batches."""

    def __init__(self, model: Session, scheduler: BatchScheduler, signature: str, **options: Any) -> None:
        definition = model.signatures[signature]
        self.feed = model.endpoint(definition.inputs["x"].name)
        self.fetch = model.endpoint(definition.outputs["y"].name)
        self.model, self.library, self.time_limit = model, model.library, model.time_limit
        self.runs: list[tuple[int, ...]] = []
        chosen = {"max_execution_batch_size": options.get("max_batch_size", 1000), **options}
        self.batched = BatchingSession(self, scheduler, BatchingOptions(**chosen))

    def declared_shape(self, endpoint: Endpoint) -> DeclaredShape:
        return self.model.declared_shape(endpoint)

    def counts_rows(self, fetch: Endpoint) -> bool:
        return self.model.counts_rows(fetch)

    def run(self, feeds: Any, fetches: Any, *, timeout: float | None = None) -> list[Tensor]:
        self.runs.append(feeds[0][1].shape)
        return self.model.run(feeds, fetches, timeout=timeout)

    def close(self) -> None:
        pass

    def alone(self, values: Any) -> Any:
        (answer,) = self.model.run([(self.feed, tensor(values))], [self.fetch])
        return read(answer)

    def split(self, values: Any) -> Any:
        """Run through the scheduler, which splits large requests."""
        (answer,) = self.batched.run([(self.feed, tensor(values))], [self.fetch], timeout=60.0)
        return read(answer)

    def together(self, requests: Sequence[Any]) -> list[Any]:
        """Run the requests as one batch, and return their answers."""
        self.runs.clear()
        tasks = [
            _Task(inputs=[tensor(values)], rows=len(values), deadline=time.monotonic() + 60) for values in requests
        ]
        self.batched.process([self.feed], [self.fetch], tasks, "pool")
        return [error if (error := task.result.exception(0)) else read(task.result.result(0)[0]) for task in tasks]


Ask = Callable[..., Asked]


@pytest.fixture
def ask(model: Session, scheduler: BatchScheduler) -> Ask:
    return lambda signature, **options: Asked(model, scheduler, signature, **options)


# --- a request that is split ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("signature", "values"),
    [
        ("mask", [1024, 1]),  # wide, then narrow: the rest of the answer would be uninitialized memory
        ("mask", [1, 1024]),  # narrow, then wide: the second part would be written behind the answer
        ("mask", [3, 3, 3, 2]),
        ("ragged", [1, 500]),
        ("split", ["a b c", "d", "e f"]),
        ("where", [[1.0, 1.0], [0.0, 0.0]]),
        ("joined", ["a", "b"]),
        ("sum", [[1.0, 2.0], [3.0, 4.0]]),
        ("table", [[1.0, 2.0], [3.0, 4.0]]),
        ("boolean_mask", [[1.0, 1.0], [-1.0, 1.0]]),
    ],
)
def test_parts_that_do_not_fit_together_are_an_error(ask: Ask, signature: str, values: Any) -> None:
    asked = ask(signature, max_batch_size=2000, max_execution_batch_size=1)
    with raises(RequestCode.BATCH_OUTPUT) as caught:
        asked.split(values)
    assert (caught.value.code, caught.value.status) == ("request.batch-output", Status.FAILED_PRECONDITION)
    assert caught.value.message.startswith(
        ("The parts of a large request have output", "Batched output", "The values", "The sig")
    )


@pytest.mark.parametrize(
    ("signature", "values"),
    [("mask", [7, 7, 7]), ("split", ["a b", "c d"]), ("row_wise", [[1.0, 2.0]] * 9), ("words", ["a", "", "\0" * 50])],
)
def test_parts_that_fit_together_are_joined(ask: Ask, signature: str, values: Any) -> None:
    asked = ask(signature, max_batch_size=2000, max_execution_batch_size=2)
    assert asked.split(values) == asked.alone(values)


def test_no_part_runs_for_a_request_that_ended(ask: Ask, scheduler: BatchScheduler) -> None:
    asked = ask("row_wise", max_batch_size=100, max_execution_batch_size=1, max_enqueued_batches=1, timeout=3600.0)
    with raises(RequestCode.BATCH_QUEUE_FULL):
        asked.split([[1.0, 2.0]] * 50)
    with scheduler._changed:
        assert not any(
            task.result.running()
            for queue in scheduler._queues.values()
            for batch in queue.batches
            for task in batch.tasks
        )
    assert asked.split([[1.0, 2.0]]) == asked.alone([[1.0, 2.0]])


# --- requests that share a batch --------------------------------------------------------------------------------------

LENGTHS = st.lists(st.integers(0, 40), min_size=1, max_size=4)
PAIRS = st.lists(
    st.tuples(st.sampled_from([-1.0, 1.0, 2.0]), st.sampled_from([-1.0, 1.0, 3.0])).map(list), min_size=1, max_size=4
)
WORDS = st.lists(st.text("ab ", max_size=30), min_size=1, max_size=4)
VALUES = {
    "mask": LENGTHS,
    "ragged": LENGTHS,
    "where": PAIRS,
    "boolean_mask": PAIRS,
    "sum": PAIRS,
    "table": PAIRS,
    "row_wise": PAIRS,
    "same_width": PAIRS,
    "first_column": PAIRS,
    "open_rank": PAIRS,
    "split": WORDS,
    "joined": WORDS,
    "words": WORDS,
}
INDEPENDENT = {"row_wise", "words", "same_width", "open_rank"}


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.data(),
    signature=st.sampled_from(sorted(VALUES)),
    sizes=st.sampled_from([(), (1, 2, 4, 8, 16, 32)]),
)
def test_an_answer_in_a_batch_is_the_answer_alone(
    model: Session, scheduler: BatchScheduler, data: st.DataObject, signature: str, sizes: tuple[int, ...]
) -> None:
    asked = Asked(model, scheduler, signature, max_batch_size=32, allowed_batch_sizes=sizes)
    learnt: set[bool] = set()
    for _ in range(2):  # the second batch uses the result of the first batch
        requests = data.draw(st.lists(VALUES[signature], min_size=2, max_size=5))
        for values, answer in zip(requests, asked.together(requests), strict=True):
            if isinstance(answer, RequestError) and answer.code == RequestCode.BATCH_OUTPUT:
                learnt.add(bool(sizes))
            else:
                assert answer == asked.alone(values)
        assert signature in INDEPENDENT or len(asked.runs) >= len(requests)
    assert learnt <= {True}  # only a padded batch can fail: its output has rows that belong to no request


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), signature=st.sampled_from(sorted(VALUES)), step=st.integers(1, 3))
def test_an_answer_that_was_split_is_the_answer_alone_or_an_error(
    model: Session, scheduler: BatchScheduler, data: st.DataObject, signature: str, step: int
) -> None:
    asked = Asked(model, scheduler, signature, max_batch_size=100, max_execution_batch_size=step)
    requests = data.draw(st.lists(VALUES[signature], min_size=1, max_size=3))

    def split(values: Any) -> Any:
        try:
            return asked.split(values)
        except RequestError as error:
            if error.code != RequestCode.BATCH_OUTPUT:
                raise
            return None

    with ThreadPoolExecutor(len(requests)) as pool:
        for values, answer in zip(requests, pool.map(split, requests), strict=True):
            assert answer in (None, asked.alone(values))


def test_the_width_of_an_answer_does_not_tell_of_another_request(ask: Ask) -> None:
    asked = ask("mask")
    assert asked.together([[2], [40], [3]]) == [[[1, 1]], [[1] * 40], [[1, 1, 1]]]
    assert asked.runs == [(3,), (1,), (1,), (1,)]
    assert asked.together([[2], [40]]) == [[[1, 1]], [[1] * 40]]
    assert asked.runs == [(1,), (1,)]  # no second batch is formed


def test_an_output_without_rows_of_its_own_is_not_cut(ask: Ask) -> None:
    asked = ask("where")
    first, second = [[1.0, 1.0], [1.0, -1.0]], [[-1.0, -1.0], [1.0, -1.0]]
    # Together they have four rows of four, as if each row of the output were one of the input.
    assert asked.together([first, second]) == [asked.alone(first), asked.alone(second)]
    assert len(asked.runs) == 2


def test_what_follows_from_the_shape_of_the_inputs_is_cut(ask: Ask) -> None:
    for signature, requests in (
        ("same_width", [[[1.0, 2.0, 3.0]], [[4.0, 5.0, 6.0]]]),
        ("row_wise", [[[1.0, 2.0]], [[3.0, 4.0], [5.0, 6.0]]]),
        ("words", [["a"], ["b", "c"]]),
    ):
        asked = ask(signature)
        assert asked.together(requests) == [asked.alone(values) for values in requests]
        assert len(asked.runs) == 1


def test_what_is_remembered_is_bounded(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_rows, "_REMEMBERED", 3)
    asked = ask("open_rank")
    for width in range(1, 9):
        values = [[1.0] * width]
        assert asked.together([values, values]) == [asked.alone(values)] * 2
        assert len(asked.batched._rows._shapes) <= 3
    other = ask("mask")
    for _ in range(5):
        assert other.together([[1], [2]]) == [other.alone([1]), other.alone([2])]
        assert len(other.batched._rows._apart) <= 3


# --- time -------------------------------------------------------------------------------------------------------------


class Held:
    """A model whose runs wait until a test lets them continue."""

    def __init__(self) -> None:
        self.library = library()
        self.time_limit = 300.0
        self.entered, self.gate = threading.Event(), threading.Event()
        self.running = 0
        self.freed: list[int] = []

    def run(self, feeds: Any, _fetches: Any, *, timeout: float | None = None) -> list[Tensor]:
        assert timeout is not None
        self.running += 1
        self.entered.set()
        assert self.gate.wait(60)
        self.running -= 1
        return [feeds[0][1]]

    def declared_shape(self, _endpoint: Endpoint) -> DeclaredShape:
        return None

    def counts_rows(self, _fetch: Endpoint) -> bool:
        return False

    def close(self) -> None:
        self.freed.append(self.running)


def test_a_request_does_not_wait_for_a_batch_that_has_more_time_and_the_model_stays_meanwhile() -> None:
    model, scheduler = Held(), BatchScheduler(threads=1)
    batched = BatchingSession(model, scheduler, BatchingOptions())
    with ThreadPoolExecutor(1) as pool:
        with raises(RequestCode.DEADLINE_EXCEEDED):
            batched.run([(Endpoint(1, 0), tensor([1.0]))], [Endpoint(2, 0)], timeout=0.05)
        assert model.entered.wait(60)
        freed = pool.submit(batched.close)  # its clients left, but the batch still runs
        assert not model.freed
        model.gate.set()
        freed.result(60)
    assert model.freed == [0]
    scheduler.close()


def test_a_request_that_fails_in_a_batch_has_no_second_deadline(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ask("row_wise")
    seen: list[float] = []

    def fail(_feeds: Any, _fetches: Any, *, timeout: float) -> list[Tensor]:
        seen.append(timeout)
        raise TensorFlowError(Status.DEADLINE_EXCEEDED, "late")

    monkeypatch.setattr(asked, "run", fail)
    now = time.monotonic()
    tasks = [_Task(inputs=[tensor([[1.0, 2.0]])], rows=1, deadline=now + limit) for limit in (100.0, 200.0, -1.0)]
    asked.batched.process([asked.feed], [asked.fetch], tasks, "pool")
    assert [type(task.result.exception(0)) for task in tasks] == [
        TensorFlowError,
        TensorFlowError,
        RequestError,
    ]
    assert getattr(tasks[2].result.exception(0), "code", None) == RequestCode.DEADLINE_EXCEEDED
    assert [round(limit, -2) for limit in seen] == [200, 100, 200]


# --- a debug allocator ------------------------------------------------------------------------------------------------


def test_a_debug_allocator_finds_no_byte_out_of_place() -> None:
    """Run the tests of tensors and batches again: memory is filled with a pattern, and its edges are checked."""
    if os.environ.get("MALLOC_CHECK_"):
        pytest.skip("this is the run with the debug allocator")
    try:
        import ctypes  # noqa: PLC0415  # only to see whether it is there

        ctypes.CDLL(ALLOCATOR)
    except OSError:
        pytest.skip(f"{ALLOCATOR} is missing: it is a part of glibc 2.34 and later")
    files = [str(Path(__file__).with_name(name)) for name in ("test_batch_isolation.py", "test_tensors.py")]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-n",
            "0",
            "-p",
            "no:cacheprovider",
            "-k",
            "parts or joined or cut",
            *files,
        ],
        env={**os.environ, "LD_PRELOAD": ALLOCATOR, "MALLOC_CHECK_": "3", "MALLOC_PERTURB_": "165"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
