import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from tests.harness.errors import raises
from tests.harness.serialised import predict
from tests.harness.tiny_model import saved_model

from sealserve.serving.command_line import options as flags
from sealserve.serving.command_line.batching_options import BatchingOptions, BatchingParametersError
from sealserve.serving.command_line.parameters_pb2 import BatchingParameters
from sealserve.serving.lifecycle.models import Models
from sealserve.serving.metrics import Metrics
from sealserve.serving.request_errors import RequestCode, RequestError, Status
from sealserve.serving.runtime.batching import BatchingSession, BatchScheduler, _Task
from sealserve.serving.runtime.libtensorflow import Endpoint, Library, TensorFlowError, library
from sealserve.serving.runtime.padding import pad_to
from sealserve.serving.runtime.protos import DataType, PredictRequest, PredictResponse
from sealserve.serving.runtime.session import DeclaredShape
from sealserve.serving.runtime.tensors import Tensor
from sealserve.serving.servables import Servables

pytestmark = pytest.mark.tensorflow

FLOAT, INT = DataType.Value("DT_FLOAT"), DataType.Value("DT_INT32")
X, OTHER, Y, Z = Endpoint(1, 0), Endpoint(1, 1), Endpoint(2, 0), Endpoint(3, 0)


@pytest.fixture(scope="module")
def tensorflow() -> Library:
    return library()


def floats(values: Any) -> Tensor:
    array = np.array(values, np.float32)
    return Tensor.from_bytes(library(), FLOAT, array.shape, [array.tobytes()])


def read(tensor: Tensor) -> Any:
    return np.frombuffer(tensor.content(), np.float32).reshape(tensor.shape).tolist()


class Model:
    """A session that adds one to its first input, records its batches, and waits or fails as a test requires."""

    def __init__(self) -> None:
        self.library = library()
        self.time_limit = 300.0
        self.batches: list[list[tuple[int, ...]]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.timeouts: list[float | None] = []
        self.closed = False

    def run(
        self, feeds: Sequence[tuple[Endpoint, Tensor]], fetches: Sequence[Endpoint], *, timeout: float | None = None
    ) -> list[Tensor]:
        self.batches.append([tensor.shape for _, tensor in feeds])
        self.timeouts.append(timeout)
        self.entered.release()
        assert self.gate.wait(60)
        values = np.array(read(feeds[0][1]), np.float32)
        if (values == 13).any():
            raise TensorFlowError(Status.INVALID_ARGUMENT, "thirteen")
        if fetches[0].operation == Z.operation:
            return [floats(values.sum())]
        return [floats(values + 1) for _ in fetches]

    def declared_shape(self, endpoint: Endpoint) -> DeclaredShape:
        return () if endpoint.operation == Z.operation else None

    def counts_rows(self, _fetch: Endpoint) -> bool:
        return False

    def close(self) -> None:
        self.closed = True


class World:
    """A model behind batches, with one thread that runs them."""

    def __init__(self, threads: int = 1, **options: Any) -> None:
        self.model = Model()
        self.scheduler = BatchScheduler(threads=threads)
        chosen = {"max_execution_batch_size": options.get("max_batch_size", 1000), **options}
        self.session = BatchingSession(self.model, self.scheduler, BatchingOptions(**chosen))
        self.pool = ThreadPoolExecutor(16)

    def ask(self, values: Any, *, feed: Endpoint = X, fetch: Endpoint = Y, timeout: float | None = None) -> Any:
        (result,) = self.session.run([(feed, floats(values))], [fetch], timeout=timeout)
        return read(result)

    def held(self, *calls: Callable[[], Any]) -> list[Any]:
        """Make the calls while the only thread is busy, so that they wait together; return their results."""
        self.model.gate.clear()
        first = self.pool.submit(self.ask, [0.0])
        assert self.model.entered.acquire(timeout=60)
        waiting = []
        for number, call in enumerate(calls, 1):
            waiting.append(self.pool.submit(call))
            while self.waiting() < number and not waiting[-1].done():
                time.sleep(0.001)
        self.model.batches.clear()
        self.model.gate.set()
        assert first.result(60) == [1.0]
        return [future.exception(60) or future.result(60) for future in waiting]

    def waiting(self) -> int:
        with self.scheduler._changed:
            return sum(len(batch.tasks) for queue in self.scheduler._queues.values() for batch in queue.batches)

    def close(self) -> None:
        self.pool.shutdown()
        self.scheduler.close()


@pytest.fixture
def world() -> Iterator[Callable[..., World]]:
    worlds: list[World] = []

    def make(**options: Any) -> World:
        worlds.append(World(**options))
        return worlds[-1]

    yield make
    for made in worlds:
        made.close()


Make = Callable[..., World]


def test_requests_that_wait_together_run_together(world: Make) -> None:
    batched = world()
    answers = batched.held(*[lambda value=value: batched.ask([value, -value]) for value in (1.0, 2.0, 3.0)])
    assert answers == [[2.0, 0.0], [3.0, -1.0], [4.0, -2.0]]
    assert batched.model.batches == [[(6,)]]


def test_a_request_alone_is_run_as_it_is(world: Make) -> None:
    batched = world()
    assert batched.ask([[1.0, 2.0]]) == [[2.0, 3.0]]
    assert batched.ask([]) == []
    assert batched.ask([1.0], fetch=Z) == 1.0


def test_different_signatures_never_share_a_batch(world: Make) -> None:
    batched = world()
    answers = batched.held(
        lambda: batched.ask([1.0]),
        lambda: batched.ask([2.0], feed=OTHER),
        lambda: batched.ask([3.0], fetch=Endpoint(9, 0)),
    )
    assert answers == [[2.0], [3.0], [4.0]]
    assert batched.model.batches == [[(1,)]] * 3


def test_shapes_that_do_not_fit_together_are_batches_of_their_own(world: Make) -> None:
    batched = world()
    answers = batched.held(
        lambda: batched.ask([[1.0]]), lambda: batched.ask([[2.0, 3.0]]), lambda: batched.ask([[4.0]])
    )
    assert answers == [[[2.0]], [[3.0, 4.0]], [[5.0]]]
    assert sorted(batched.model.batches) == [[(1, 2)], [(2, 1)]]


def test_a_batch_is_no_larger_than_allowed_and_no_more_wait_than_may(world: Make) -> None:
    batched = world(max_batch_size=2, max_enqueued_batches=2)
    answers = batched.held(*[lambda: batched.ask([1.0])] * 5)
    assert answers[:4] == [[2.0]] * 4
    assert isinstance(answers[4], RequestError)
    assert answers[4].code == RequestCode.BATCH_QUEUE_FULL
    assert (answers[4].code, answers[4].status) == ("request.batch-queue-full", Status.UNAVAILABLE)
    assert "currently 2 batches enqueued and max_enqueued_batches is 2" in answers[4].message
    assert batched.model.batches == [[(2,)], [(2,)]]
    with raises(RequestCode.BATCH_INPUT, match="Task size 3 is larger than maximum input batch size 2") as caught:
        batched.ask([1.0, 2.0, 3.0])
    assert caught.value.code == "request.batch-input"


def test_a_batch_that_is_not_full_runs_after_its_time(world: Make) -> None:
    batched = world(max_batch_size=2, timeout=3600.0)
    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(batched.ask, ([1.0], [2.0]))) == [[2.0], [3.0]]
    assert batched.model.batches == [[(2,)]]
    soon = world(threads=2, timeout=0.05)
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(soon.ask, ([1.0], [[2.0]], [[[3.0]]]))) == [[2.0], [[3.0]], [[[4.0]]]]


def test_a_batch_is_filled_up_to_an_allowed_size(world: Make) -> None:
    batched = world(max_batch_size=8, allowed_batch_sizes=(1, 4, 8))
    assert batched.held(lambda: batched.ask([1.0, 5.0]), lambda: batched.ask([2.0])) == [[2.0, 6.0], [3.0]]
    assert batched.model.batches == [[(4,)]]


def test_inputs_of_different_lengths_are_made_equal_where_that_is_asked_for(world: Make) -> None:
    batched = world(pad_variable_length_inputs=True)
    answers = batched.held(lambda: batched.ask([[1.0, 2.0, 3.0]]), lambda: batched.ask([[7.0]]))
    assert answers == [[[2.0, 3.0, 4.0]], [[8.0, 8.0, 8.0]]]
    assert batched.model.batches == [[(2, 3)]]


def test_a_large_request_is_split_where_that_is_asked_for(world: Make) -> None:
    batched = world(max_batch_size=10, max_execution_batch_size=2)
    assert batched.ask([1.0, 2.0, 3.0, 4.0, 5.0]) == [2.0, 3.0, 4.0, 5.0, 6.0]
    assert sorted(batched.model.batches) == [[(1,)], [(2,)], [(2,)]]


def test_only_the_request_at_fault_fails(world: Make) -> None:
    batched = world()
    answers = batched.held(lambda: batched.ask([1.0]), lambda: batched.ask([13.0]), lambda: batched.ask([2.0]))
    assert (answers[0], answers[2]) == ([2.0], [3.0])
    assert isinstance(answers[1], TensorFlowError)


def test_outputs_that_cannot_be_told_apart_are_computed_alone(world: Make) -> None:
    batched = world()
    assert batched.held(lambda: batched.ask([1.0], fetch=Z), lambda: batched.ask([2.0], fetch=Z)) == [1.0, 2.0]
    filled = world(max_batch_size=4, allowed_batch_sizes=(4,))
    with raises(RequestCode.BATCH_OUTPUT, match="Batched output tensor has 0 dimensions") as caught:
        filled.ask([1.0], fetch=Z)
    assert (caught.value.code, caught.value.status) == ("request.batch-output", Status.FAILED_PRECONDITION)


def test_a_deadline_counts_while_a_request_waits(world: Make) -> None:
    batched = world()
    batched.model.gate.clear()
    first = batched.pool.submit(batched.ask, [0.0])
    assert batched.model.entered.acquire(timeout=60)
    with raises(RequestCode.DEADLINE_EXCEEDED, match="while waiting in batching queue"):
        batched.ask([1.0], timeout=0.02)
    assert batched.waiting() == 0
    assert not batched.scheduler._queues
    batched.model.gate.set()
    assert first.result(60) == [1.0]


def test_a_request_that_is_late_when_its_turn_comes_is_not_run(world: Make) -> None:
    batched = world()
    late = _Task(inputs=[floats([1.0])], rows=1, deadline=time.monotonic() - 1)
    good = _Task(inputs=[floats([2.0])], rows=1, deadline=time.monotonic() + 60)
    batched.session.process([X], [Y], [late, good], "pool")
    assert isinstance(error := late.result.exception(0), RequestError)
    assert error.code == RequestCode.DEADLINE_EXCEEDED
    assert read(good.result.result(0)[0]) == [3.0]
    assert batched.model.batches == [[(1,)]]


def test_the_latest_deadline_is_the_batchs(world: Make) -> None:
    batched = world()
    batched.model.timeouts.clear()
    for late, limit in ((200.0, 200), (None, 300), (1000.0, 300)):  # at most the server's own limit
        while batched.model.entered.acquire(blocking=False):
            pass
        batched.held(
            lambda: batched.ask([1.0], timeout=50.0),
            lambda late=late: batched.ask([1.0], timeout=late),  # type: ignore[misc]
        )
        timeout = batched.model.timeouts[-1]
        assert timeout is not None
        assert limit - 50 < timeout <= limit


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ([], "Batching Run() must have at least one input tensor"),
        ([1.0], "Batching Run() input tensors must have at least one dimension"),
        ([[1.0], [1.0, 2.0]], "Batching Run() input tensors must have equal 0th-dimension size"),
    ],
)
def test_inputs_without_rows(world: Make, feeds: list[Any], message: str) -> None:
    with raises(RequestCode.BATCH_INPUT) as caught:
        world().session.run([(Endpoint(1, index), floats(value)) for index, value in enumerate(feeds)], [Y])
    assert caught.value.message == message


def test_closing_frees_the_model(world: Make) -> None:
    batched = world()
    batched.session.close()
    assert batched.model.closed


def test_tensors_are_cut_and_filled(tensorflow: Library) -> None:
    words = Tensor.from_strings(tensorflow, (3, 1), [b"a", b"\x00" * 40, b""])
    assert (words.rows(1, 3).strings(), words.rows(1, 3).shape) == ([b"\x00" * 40, b""], (2, 1))
    assert pad_to(tensorflow, words, (3, 2)).strings() == [b"a", b"a", b"\x00" * 40, b"a", b"", b"a"]
    assert read(pad_to(tensorflow, floats([[[5.0]]]), (1, 2, 2))) == [[[5.0, 5.0], [5.0, 5.0]]]
    with raises(RequestCode.BATCH_PADDING, match="Got empty tensor") as caught:
        pad_to(tensorflow, floats(np.zeros([1, 0])), (1, 2))
    assert caught.value.code == "request.batch-padding"
    with raises(RequestCode.BATCH_PADDING, match="rank from 1 to 6"):
        pad_to(tensorflow, floats(np.zeros([1] * 7)), (2, *[1] * 6))


# --- parameters -------------------------------------------------------------------------------------------------------


def parameters(text: str) -> BatchingParameters:
    return text_format.Parse(text, BatchingParameters())


def test_the_defaults_are_tensorflow_servings() -> None:
    assert BatchingOptions.of(BatchingParameters()) == BatchingOptions()
    chosen = BatchingOptions.of(
        parameters(
            "max_batch_size { value: 8 } batch_timeout_micros { value: 5000 } max_enqueued_batches { value: 3 }"
            " allowed_batch_sizes: 2 allowed_batch_sizes: 8 pad_variable_length_inputs: true"
        )
    )
    assert chosen == BatchingOptions(
        max_batch_size=8,
        timeout=0.005,
        max_enqueued_batches=3,
        allowed_batch_sizes=(2, 8),
        pad_variable_length_inputs=True,
        max_execution_batch_size=8,
    )
    split = parameters(
        "max_batch_size { value: 8 } enable_large_batch_splitting { value: true } max_execution_batch_size { value: 2 }"
    )
    assert BatchingOptions.of(split).max_execution_batch_size == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_batch_size { value: 0 }", "max_batch_size must be positive; was 0"),
        ("max_enqueued_batches { value: -1 }", "max_enqueued_batches must be positive; was -1"),
        ("batch_timeout_micros { value: -1 }", "batch_timeout_micros must not be negative"),
        (
            "max_batch_size { value: 8 } allowed_batch_sizes: 4",
            "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 4; expected 8",
        ),
        ("allowed_batch_sizes: 9 allowed_batch_sizes: 8 allowed_batch_sizes: 1000", "in increasing order"),
        (
            (
                "max_batch_size { value: 2 } enable_large_batch_splitting { value: true }"
                " max_execution_batch_size { value: 3 }"
            ),
            r"max_execution_batch_size \(3\) must not exceed max_batch_size \(2\)",
        ),
    ],
)
def test_parameters_that_contradict_themselves(text: str, message: str) -> None:
    with pytest.raises(BatchingParametersError, match=message) as caught:
        BatchingOptions.of(parameters(text))
    assert caught.value.code == "batching.parameters"


def test_there_must_be_a_thread() -> None:
    with pytest.raises(BatchingParametersError, match="num_batch_threads must be positive; was 0"):
        BatchScheduler.of(parameters("num_batch_threads { value: 0 }"), Metrics())
    scheduler = BatchScheduler.of(
        parameters('num_batch_threads { value: 3 } thread_pool_name { value: "mine" }'), Metrics()
    )
    assert [thread.name for thread in scheduler._threads] == ["mine-0", "mine-1", "mine-2"]
    scheduler.close()


# --- real models ------------------------------------------------------------------------------------------------------


def start(tmp_path: Path, *arguments: str) -> tuple[Models, Servables]:
    if not (tmp_path / "m").exists():
        saved_model(tmp_path / "m/1")
    chosen = flags.parse(
        [
            *("--dangerous_plaintext", "--model_name=m", f"--model_base_path={tmp_path}/m", "--enable_batching"),
            *("--file_system_poll_wait_seconds=0", "--max_num_load_retries=0", *arguments),
        ]
    )
    assert isinstance(chosen, flags.ServerOptions)
    table = Servables()
    models = Models(chosen, None, table)
    models.start()
    return models, table


def half_plus_two(table: Servables, *values: float) -> list[float]:
    request = PredictRequest()
    request.model_spec.name = "m"
    proto = request.inputs["x"]
    proto.dtype = FLOAT
    proto.tensor_shape.dim.add(size=len(values))
    proto.float_val.extend(values)
    content = predict(table, request.SerializeToString(), max_tensor_bytes=2**20, deadline=time.monotonic() + 60)
    return list(PredictResponse.FromString(content).outputs["y"].float_val)


def test_a_real_model_answers_many_at_once_each_its_own(tmp_path: Path) -> None:
    (tmp_path / "batching.config").write_text(
        "max_batch_size { value: 4 } batch_timeout_micros { value: 2000 } num_batch_threads { value: 2 }"
        " max_enqueued_batches { value: 100 } allowed_batch_sizes: 2 allowed_batch_sizes: 4"
    )
    models, table = start(tmp_path, f"--batching_parameters_file={tmp_path}/batching.config")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda value: half_plus_two(table, value), range(100)))
    assert answers == [[value / 2 + 2] for value in range(100)]
    assert half_plus_two(table, 1.0) == [2.5]  # alone, so that a batch of one is padded to two
    assert half_plus_two(table, 1.0, 2.0, 3.0) == [2.5, 3.0, 3.5]
    with pytest.raises(RequestError, match="Task size 5 is larger than maximum input batch size 4"):
        half_plus_two(table, *range(5))
    page = table.metrics.page()
    assert ":tensorflow:serving:batching_session:wrapped_run_count{} " in page
    assert ':tensorflow:serving:batching_session:padding_size_count{execution_batch_size="2"} ' in page
    assert ':tensorflow:serving:batching_session:queuing_latency_count{thread_pool_name="batch_threads"} ' in page
    models.close()


def test_each_version_may_have_parameters_of_its_own(tmp_path: Path) -> None:
    models, table = start(tmp_path, "--enable_per_model_batching_parameters")
    assert half_plus_two(table, *range(5)) == [value / 2 + 2 for value in range(5)]
    models.close()
    (tmp_path / "m/1/batching_params.pbtxt").write_text("max_batch_size { value: 2 }")
    models, table = start(tmp_path, "--enable_per_model_batching_parameters")
    with pytest.raises(RequestError, match="Task size 5 is larger than maximum input batch size 2"):
        half_plus_two(table, *range(5))
    models.close()
