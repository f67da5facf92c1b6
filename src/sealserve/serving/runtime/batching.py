"""Requests that run together: concatenated on the way in, cut apart on the way out.

Requests share a batch only if they feed and fetch the very same tensors, with the same shapes but for the first
dimension (with ``pad_variable_length_inputs``, the same ranks). So nobody's request fails because of a stranger's
shape; and where a batch fails, its requests are run one by one, so that only those fail that are at fault. In both,
TensorFlow Serving lets the whole batch fail.

Source: tensorflow/serving, ``batching/batching_session.cc``, ``batching/batching_util.cc`` and
``servables/tensorflow/bundle_factory_util.cc``; tensorflow/tensorflow,
``core/kernels/batching_util/shared_batch_scheduler.h`` (when a batch is run, defaults, messages).
"""

import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from typing import Any, Final

from sealserve.serving.command_line.batching_options import BatchingOptions, positive
from sealserve.serving.command_line.parameters_pb2 import BatchingParameters
from sealserve.serving.metrics import METRICS
from sealserve.serving.request_errors import DeadlineExceededError, RequestError, Status
from sealserve.serving.runtime.libtensorflow import Endpoint, Library, TensorFlowError
from sealserve.serving.runtime.padding import pad_to
from sealserve.serving.runtime.protos import DataType
from sealserve.serving.runtime.session import Runnable
from sealserve.serving.runtime.tensors import Tensor

_STRING: Final = DataType.Value("DT_STRING")
_Key = tuple[Any, ...]


class BatchInputError(RequestError):
    """A request cannot be part of a batch."""

    code = "request.batch-input"


class BatchOutputError(RequestError):
    """The model's outputs cannot be told apart by request."""

    code = "request.batch-output"
    status = Status.FAILED_PRECONDITION


class BatchQueueFullError(RequestError):
    """As many batches wait as may wait."""

    code = "request.batch-queue-full"
    status = Status.UNAVAILABLE


@dataclass(eq=False, slots=True, kw_only=True)
class _Task:
    """One request, or a part of one.

    Args:
        inputs: Its tensors, in the queue's order of feeds.
        rows: How many rows it has.
        deadline: When its sender gives up; None for never.
    """

    inputs: Sequence[Tensor]
    rows: int
    deadline: float | None
    since: float = field(default_factory=time.monotonic)
    result: "Future[list[Tensor]]" = field(default_factory=Future)


@dataclass(eq=False, slots=True)
class _Batch:
    tasks: list[_Task] = field(default_factory=list)
    rows: int = 0


class _Queue:
    """The batches of requests that may run together.

    Args:
        session: What runs them.
        feeds: The tensors that they feed.
        fetches: The tensors that they fetch.
    """

    def __init__(self, session: "BatchingSession", feeds: Sequence[Endpoint], fetches: Sequence[Endpoint]) -> None:
        self.session = session
        self.feeds = feeds
        self.fetches = fetches
        self.batches: deque[_Batch] = deque()


class BatchScheduler:
    """The threads that run batches, of all models.

    Args:
        threads: How many there are.
        name: What they are called.
    """

    def __init__(self, *, threads: int, name: str = "batch_threads") -> None:
        self.name = name
        self._queues: dict[_Key, _Queue] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._serve, name=f"{name}-{number}", daemon=True) for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    @classmethod
    def of(cls, parameters: BatchingParameters) -> "BatchScheduler":
        """Return the threads that ``parameters`` ask for.

        Raises:
            BatchingParametersError: There would be none.
        """
        return cls(
            threads=positive(parameters, "num_batch_threads", len(os.sched_getaffinity(0))),
            name=parameters.thread_pool_name.value or "batch_threads",
        )

    def add(self, key: _Key, queue: _Queue, task: _Task) -> None:
        """Put ``task`` into the last batch of the queue ``key`` (``queue``, where there is none yet).

        Raises:
            BatchQueueFullError: As many batches wait as may wait.
        """
        options = queue.session.options
        with self._changed:
            batches = self._queues.setdefault(key, queue).batches
            if not batches or batches[-1].rows + task.rows > options.max_execution_batch_size:
                if len(batches) >= options.max_enqueued_batches:
                    raise BatchQueueFullError(
                        "The batch scheduling queue to which this task was submitted is full; currently"
                        f" {len(batches)} batches enqueued and max_enqueued_batches is {options.max_enqueued_batches}"
                    )
                batches.append(_Batch())
            batches[-1].tasks.append(task)
            batches[-1].rows += task.rows
            self._changed.notify()

    def withdraw(self, key: _Key, task: _Task) -> None:
        """Take ``task`` out of its queue, if it still waits there."""
        with self._changed:
            queue = self._queues.get(key)
            for batch in list(queue.batches) if queue else ():
                if queue is not None and task in batch.tasks:
                    batch.tasks.remove(task)
                    batch.rows -= task.rows
                    if not batch.tasks:
                        queue.batches.remove(batch)
            if queue is not None and not queue.batches:
                del self._queues[key]

    def close(self) -> None:
        """End the threads, once nothing waits any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        while (found := self._take()) is not None:
            queue, batch = found
            queue.session.process(queue.feeds, queue.fetches, batch.tasks, self.name)
            del found, queue, batch  # else the tensors would stay until the next one comes

    def _take(self) -> tuple[_Queue, _Batch] | None:
        """Return the next batch that is to run; wait for one; None at the end."""
        with self._changed:
            while True:
                now = time.monotonic()
                soonest: float | None = None
                for key, queue in list(self._queues.items()):
                    options, batch = queue.session.options, queue.batches[0]
                    due = batch.tasks[0].since + options.timeout
                    full = len(queue.batches) > 1 or batch.rows >= options.max_execution_batch_size
                    if full or due <= now or self._closed:
                        queue.batches.popleft()
                        del self._queues[key]  # it comes again at the end: each queue has its turn
                        if queue.batches:
                            self._queues[key] = queue
                        self._changed.notify()  # for what else is due, or will be
                        return queue, batch
                    soonest = due if soonest is None else min(soonest, due)
                if self._closed:
                    return None
                self._changed.wait(None if soonest is None else soonest - now)


class BatchingSession:
    """A session whose runs wait for others to run with.

    Args:
        session: What runs the batches.
        scheduler: The threads for them.
        options: How.
    """

    def __init__(self, session: Runnable, scheduler: BatchScheduler, options: BatchingOptions) -> None:
        self.library: Library = session.library
        self.options = options
        self._session = session
        self._scheduler = scheduler

    def run(
        self, feeds: Sequence[tuple[Endpoint, Tensor]], fetches: Sequence[Endpoint], *, timeout: float | None = None
    ) -> list[Tensor]:
        """Return the tensors of ``fetches``, as `Session.run`.

        Raises:
            TensorFlowError: TensorFlow refused the inputs, failed or gave up.
            RequestError: The request cannot be part of a batch, or waited for too long.
        """
        feeds = sorted(feeds, key=lambda feed: (feed[0].operation or 0, feed[0].index))
        rows = _rows([tensor for _, tensor in feeds])
        if rows > self.options.max_batch_size:
            raise BatchInputError(
                f"Task size {rows} is larger than maximum input batch size {self.options.max_batch_size}"
            )
        if not rows:
            return self._session.run(feeds, fetches, timeout=timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        step = self.options.max_execution_batch_size
        parts = [
            self._submit(
                [endpoint for endpoint, _ in feeds],
                [tensor if rows <= step else tensor.rows(start, min(start + step, rows)) for _, tensor in feeds],
                fetches,
                min(step, rows - start),
                deadline,
            )
            for start in range(0, rows, step)
        ]
        results = [self._wait(*part) for part in parts]
        if len(results) == 1:
            return results[0]
        return [_merge(self.library, list(column)) for column in zip(*results, strict=True)]

    def close(self) -> None:
        """Free the model."""
        self._session.close()

    def process(
        self, feeds: Sequence[Endpoint], fetches: Sequence[Endpoint], tasks: Sequence[_Task], pool: str
    ) -> None:
        """Run ``tasks`` together, and give each its result."""
        now = time.monotonic()
        wanted = [task for task in tasks if task.result.set_running_or_notify_cancel()]
        for task in wanted:
            METRICS.waited(pool, now - task.since)
        late = [task for task in wanted if task.deadline is not None and task.deadline <= now]
        for task in late:
            task.result.set_exception(_late())
        wanted = [task for task in wanted if task not in late]
        if wanted:
            self._process(feeds, fetches, wanted)

    def _process(self, feeds: Sequence[Endpoint], fetches: Sequence[Endpoint], tasks: Sequence[_Task]) -> None:
        try:
            results = self._run_together(feeds, fetches, tasks)
        except (TensorFlowError, RequestError) as error:
            if len(tasks) == 1:
                tasks[0].result.set_exception(error)
                return
            for task in tasks:
                self._process(feeds, fetches, [task])
        except BaseException as error:  # noqa: BLE001  # whoever waits gets it
            for task in tasks:
                task.result.set_exception(error)
        else:
            for task, result in zip(tasks, results, strict=True):
                task.result.set_result(result)

    def _run_together(
        self, feeds: Sequence[Endpoint], fetches: Sequence[Endpoint], tasks: Sequence[_Task]
    ) -> list[list[Tensor]]:
        rows = sum(task.rows for task in tasks)
        size = next((allowed for allowed in self.options.allowed_batch_sizes if allowed >= rows), rows)
        METRICS.batch([task.rows for task in tasks], size, size - rows)
        deadlines = [task.deadline for task in tasks]
        latest = None if None in deadlines else max(deadline for deadline in deadlines if deadline is not None)
        timeout = None if latest is None else max(latest - time.monotonic(), 0.001)
        merged = [
            self._column([task.inputs[index] for task in tasks], padding=size - rows) for index in range(len(feeds))
        ]
        outputs = self._session.run(list(zip(feeds, merged, strict=True)), fetches, timeout=timeout)
        if len(tasks) == 1 and size == rows:
            return [outputs]
        for output in outputs:
            if not output.shape:
                raise BatchOutputError("Batched output tensor has 0 dimensions")
            if output.shape[0] != size:
                raise BatchOutputError(
                    "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the"
                    " input tensors"
                )
        results, start = [], 0
        for task in tasks:
            results.append([output.rows(start, start + task.rows) for output in outputs])
            start += task.rows
        return results

    def _column(self, tensors: list[Tensor], *, padding: int) -> Tensor:
        """Return the tensors of one input, one after the other, and the last one's first row ``padding`` times."""
        if self.options.pad_variable_length_inputs:
            widest = tuple(map(max, zip(*(tensor.shape[1:] for tensor in tensors), strict=True)))
            tensors = [
                tensor if tensor.shape[1:] == widest else pad_to(self.library, tensor, (tensor.shape[0], *widest))
                for tensor in tensors
            ]
        if padding:
            tensors = [*tensors, *([tensors[-1].rows(0, 1)] * padding)]
        return tensors[0] if len(tensors) == 1 else _merge(self.library, tensors)

    def _submit(
        self,
        feeds: Sequence[Endpoint],
        inputs: Sequence[Tensor],
        fetches: Sequence[Endpoint],
        rows: int,
        deadline: float | None,
    ) -> tuple[_Key, _Task]:
        shapes = tuple(
            (tensor.dtype, len(tensor.shape) if self.options.pad_variable_length_inputs else tensor.shape[1:])
            for tensor in inputs
        )
        key = (id(self), shapes, *((end.operation, end.index) for end in (*feeds, *fetches)))
        task = _Task(inputs=inputs, rows=rows, deadline=deadline)
        self._scheduler.add(key, _Queue(self, feeds, fetches), task)
        return key, task

    def _wait(self, key: _Key, task: _Task) -> list[Tensor]:
        try:
            remaining = None if task.deadline is None else max(task.deadline - time.monotonic(), 0)
            return task.result.result(remaining)
        except FutureTimeoutError as error:
            if task.result.cancel():  # else it runs, and TensorFlow looks at the deadline
                self._scheduler.withdraw(key, task)
                raise _late() from error
            return task.result.result()


def _late() -> DeadlineExceededError:
    return DeadlineExceededError("Run() timeout exceeded while waiting in batching queue")


def _rows(tensors: Sequence[Tensor]) -> int:
    """Return how many rows the tensors of a request have."""
    if not tensors:
        raise BatchInputError("Batching Run() must have at least one input tensor")
    sizes = set()
    for tensor in tensors:
        if not tensor.shape:
            raise BatchInputError("Batching Run() input tensors must have at least one dimension")
        sizes.add(tensor.shape[0])
    if len(sizes) > 1:
        raise BatchInputError("Batching Run() input tensors must have equal 0th-dimension size")
    return int(sizes.pop())


def _merge(library: Library, tensors: Sequence[Tensor]) -> Tensor:
    """Return the tensors one after the other, along the first dimension."""
    shape = (sum(tensor.shape[0] for tensor in tensors), *tensors[0].shape[1:])
    if tensors[0].dtype == _STRING:
        return Tensor.from_strings(library, shape, [value for tensor in tensors for value in tensor.strings()])
    return Tensor.from_bytes(library, tensors[0].dtype, shape, tensors)
