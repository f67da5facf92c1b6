"""Batching: requests are concatenated, run together, and their outputs are split again.

Requests share a batch only if they feed and fetch exactly the same tensors, with the same shapes except for the first
dimension (with ``pad_variable_length_inputs``, the same ranks). So no request fails because of another client's shape.
If a batch fails, its requests are run one by one, so that only faulty requests fail. In both cases, TensorFlow Serving
fails the whole batch. `batch_rows` decides which outputs can be split.

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
from typing import Any

from sealserve.serving.command_line.batching_options import BatchingOptions, positive
from sealserve.serving.command_line.parameters_pb2 import BatchingParameters
from sealserve.serving.metrics import Metrics
from sealserve.serving.request_errors import RequestCode, RequestError
from sealserve.serving.runtime.batch_rows import BatchRows, cut, join, not_by_row
from sealserve.serving.runtime.libtensorflow import Endpoint, Library, TensorFlowError
from sealserve.serving.runtime.padding import pad_to
from sealserve.serving.runtime.session import Batchable
from sealserve.serving.runtime.tensors import Tensor
from sealserve.serving.spans import RequestTrace, active, working_for
from sealserve.tracing.span import SpanName

_Key = tuple[Any, ...]


@dataclass(eq=False, slots=True, kw_only=True)
class _Task:
    """A request, or a part of one.

    Args:
        inputs: Its tensors, in the queue's order of feeds.
        rows: The number of its rows.
        deadline: The client's deadline or the server's limit, whichever is earlier.
    """

    inputs: Sequence[Tensor]
    rows: int
    deadline: float
    since: float = field(default_factory=time.monotonic)
    result: "Future[list[Tensor]]" = field(default_factory=Future)
    traces: tuple[RequestTrace, ...] = field(default_factory=active)


@dataclass(eq=False, slots=True)
class _Batch:
    tasks: list[_Task] = field(default_factory=list)
    rows: int = 0


class _Queue:
    """The waiting batches of requests that may run together.

    Args:
        session: The session that runs them.
        feeds: The tensors that they feed.
        fetches: The tensors that they fetch.
    """

    def __init__(self, session: "BatchingSession", feeds: Sequence[Endpoint], fetches: Sequence[Endpoint]) -> None:
        self.session = session
        self.feeds = feeds
        self.fetches = fetches
        self.batches: deque[_Batch] = deque()


class BatchScheduler:
    """The threads that run the batches of all models.

    Args:
        threads: The number of threads.
        name: The name of the pool, for metrics and thread names.
        metrics: The metrics in which batches are counted.
    """

    def __init__(self, *, threads: int, name: str = "batch_threads", metrics: Metrics | None = None) -> None:
        self.name = name
        self.metrics = Metrics() if metrics is None else metrics
        self.threads = threads
        self._queues: dict[_Key, _Queue] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._serve, name=f"{name}-{number}", daemon=True) for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    @classmethod
    def of(cls, parameters: BatchingParameters, metrics: Metrics) -> "BatchScheduler":
        """Return the threads that ``parameters`` configure.

        Raises:
            BatchingParametersError: The number of threads is less than one.
        """
        return cls(
            threads=positive(parameters, "num_batch_threads", len(os.sched_getaffinity(0))),
            name=parameters.thread_pool_name.value or "batch_threads",
            metrics=metrics,
        )

    def add(self, key: _Key, queue: _Queue, task: _Task) -> None:
        """Add ``task`` to the last batch of the queue ``key``. If the queue does not exist, add ``queue``.

        Raises:
            RequestError: `request.batch-queue-full`: The queue is full.
        """
        options = queue.session.options
        with self._changed:
            batches = self._queues.setdefault(key, queue).batches
            if not batches or batches[-1].rows + task.rows > options.max_execution_batch_size:
                if len(batches) >= options.max_enqueued_batches:
                    raise RequestCode.BATCH_QUEUE_FULL.error(
                        "The batch scheduling queue to which this task was submitted is full; currently"
                        f" {len(batches)} batches enqueued and max_enqueued_batches is {options.max_enqueued_batches}"
                    )
                batches.append(_Batch())
            batches[-1].tasks.append(task)
            batches[-1].rows += task.rows
            self._changed.notify()

    def withdraw(self, key: _Key, task: _Task) -> None:
        """Remove ``task`` from its queue, if it still waits there."""
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
        """End the threads when no batch waits any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        while (found := self._take()) is not None:
            queue, batch = found
            queue.session.process(queue.feeds, queue.fetches, batch.tasks, self.name)
            del found, queue, batch  # otherwise the tensors would stay in memory until the next batch

    def _take(self) -> tuple[_Queue, _Batch] | None:
        """Wait for the next batch that is ready to run, and return it; None at the end."""
        with self._changed:
            while True:
                # Look for a queue whose first batch is full, or has reached its timeout.
                now = time.monotonic()
                soonest: float | None = None
                for key, queue in list(self._queues.items()):
                    options, batch = queue.session.options, queue.batches[0]
                    due = batch.tasks[0].since + options.timeout
                    full = len(queue.batches) > 1 or batch.rows >= options.max_execution_batch_size
                    if full or due <= now or self._closed:
                        queue.batches.popleft()
                        del self._queues[key]  # it is added again at the end, so that each queue has its turn
                        if queue.batches:
                            self._queues[key] = queue
                        self._changed.notify()  # for other batches that are due, or will be
                        return queue, batch
                    soonest = due if soonest is None else min(soonest, due)
                # At the end all batches are due, so none is left now.
                if self._closed:
                    return None
                # Otherwise sleep until the next batch is due, or a request arrives.
                self._changed.wait(None if soonest is None else soonest - now)


class BatchingSession:
    """A session whose runs are batched with other runs.

    Args:
        session: The session that runs the batches.
        scheduler: The threads for the batches.
        options: The batching settings.
    """

    def __init__(self, session: Batchable, scheduler: BatchScheduler, options: BatchingOptions) -> None:
        self.library: Library = session.library
        self._time_limit = session.time_limit
        self.options = options
        self._session = session
        self._scheduler = scheduler
        self._rows = BatchRows(session)
        self._idle = threading.Condition()
        self._running = 0

    def run(
        self, feeds: Sequence[tuple[Endpoint, Tensor]], fetches: Sequence[Endpoint], *, timeout: float | None = None
    ) -> list[Tensor]:
        """Return the tensors of ``fetches``, as `Session.run`.

        Raises:
            TensorFlowError: TensorFlow rejected the inputs, failed or timed out.
            RequestError: The request cannot be part of a batch, or waited too long.
        """
        # Requests that name the same inputs in a different order share a queue.
        feeds = sorted(feeds, key=lambda feed: (feed[0].operation or 0, feed[0].index))
        # Reject requests that fit into no batch. Run a request without rows alone: it cannot be joined or split.
        rows = _rows([tensor for _, tensor in feeds])
        if rows > self.options.max_batch_size:
            raise RequestCode.BATCH_INPUT.error(
                f"Task size {rows} is larger than maximum input batch size {self.options.max_batch_size}"
            )
        if not rows:
            return self._session.run(feeds, fetches, timeout=timeout)
        # A request with more rows than a batch runs in parts, if its outputs can be joined again.
        step = self.options.max_execution_batch_size
        if rows > step and (reason := self._rows.without_rows([end for end, _ in feeds], fetches)):
            raise RequestCode.BATCH_OUTPUT.error(reason)
        # If a batch fails, its requests run again one by one, within the same deadline.
        deadline = time.monotonic() + (self._time_limit if timeout is None else min(timeout, self._time_limit))
        # Submit the parts, and wait for their results.
        parts: list[tuple[_Key, _Task]] = []
        try:
            for start in range(0, rows, step):
                stop = min(start + step, rows)
                inputs = [tensor if rows <= step else tensor.rows(start, stop) for _, tensor in feeds]
                parts.append(self._submit([end for end, _ in feeds], inputs, fetches, stop - start, deadline))
            results = [_wait(task) for _, task in parts]
        finally:
            # No part may run for a request that has ended, because the model may be freed then.
            for key, task in parts:
                if task.result.cancel():
                    self._scheduler.withdraw(key, task)
        if len(results) == 1:
            return results[0]
        return join(self.library, results, [task.rows for _, task in parts])

    def close(self) -> None:
        """Free the model when no batch runs any more. A request does not wait for its batch after its deadline."""
        with self._idle:
            self._idle.wait_for(lambda: not self._running)
        self._session.close()

    def process(
        self, feeds: Sequence[Endpoint], fetches: Sequence[Endpoint], tasks: Sequence[_Task], pool: str
    ) -> None:
        """Run ``tasks`` together, and set the result of each task."""
        with self._idle:
            self._running += 1  # before a task is marked as running: its request may end from then on
        try:
            # Skip requests whose clients cancelled, and record how long the others waited.
            wanted = [task for task in tasks if task.result.set_running_or_notify_cancel()]
            now = time.monotonic()
            for task in wanted:
                self._scheduler.metrics.waited(pool, now - task.since)
                for trace in task.traces:
                    trace.add(SpanName.BATCH, task.since, now)
            # Run together only requests whose outputs can be split again.
            if len(wanted) > 1 and not self._rows.may_share(feeds, fetches, wanted[0].inputs):
                self._process_alone(feeds, fetches, wanted)
            else:
                self._process(feeds, fetches, wanted)
        finally:
            with self._idle:
                self._running -= 1
                self._idle.notify_all()

    def _process(self, feeds: Sequence[Endpoint], fetches: Sequence[Endpoint], tasks: Sequence[_Task]) -> None:
        # Reject requests whose deadline passed in the queue.
        now = time.monotonic()
        late = [task for task in tasks if task.deadline <= now]
        for task in late:
            task.result.set_exception(_late())
        tasks = [task for task in tasks if task not in late]
        if not tasks:
            return
        # Run the others. If a batch fails, run its requests one by one, so that only faulty requests fail.
        try:
            results = self._run_together(feeds, fetches, tasks)
        except (TensorFlowError, RequestError) as error:
            if len(tasks) == 1:
                tasks[0].result.set_exception(error)
            else:
                self._process_alone(feeds, fetches, tasks)
        except BaseException as error:  # noqa: BLE001  # the waiting threads receive the error
            for task in tasks:
                task.result.set_exception(error)
        else:
            for task, result in zip(tasks, results, strict=True):
                task.result.set_result(result)

    def _process_alone(self, feeds: Sequence[Endpoint], fetches: Sequence[Endpoint], tasks: Sequence[_Task]) -> None:
        for task in tasks:
            self._process(feeds, fetches, [task])

    def _run_together(
        self, feeds: Sequence[Endpoint], fetches: Sequence[Endpoint], tasks: Sequence[_Task]
    ) -> list[list[Tensor]]:
        # Pad to the next allowed size, if the added rows can be removed again.
        rows = sum(task.rows for task in tasks)
        filled = () if self._rows.without_rows(feeds, fetches) else self.options.allowed_batch_sizes
        size = next((allowed for allowed in filled if allowed >= rows), rows)
        self._scheduler.metrics.batch([task.rows for task in tasks], size, size - rows)
        # Join the inputs and run the model, until the latest deadline of its requests.
        timeout = max(max(task.deadline for task in tasks) - time.monotonic(), 0.001)
        merged = [
            self._column([task.inputs[index] for task in tasks], padding=size - rows) for index in range(len(feeds))
        ]
        with working_for(tuple(trace for task in tasks for trace in task.traces)):
            outputs = self._session.run(list(zip(feeds, merged, strict=True)), fetches, timeout=timeout)
        # Split the outputs, if each has a row for each row of the inputs.
        reason = self._rows.check(fetches, merged, outputs, size)
        if len(tasks) == 1 and size == rows:
            return [outputs]  # they contain no rows of other requests
        if len(tasks) == 1:
            reason = next(filter(None, (not_by_row(output.shape, size) for output in outputs)), None)
        if reason is not None:
            raise RequestCode.BATCH_OUTPUT.error(reason)
        return cut(outputs, [task.rows for task in tasks])

    def _column(self, tensors: list[Tensor], *, padding: int) -> Tensor:
        """Return the concatenated tensors of an input, and then the last tensor's first row ``padding`` times."""
        if self.options.pad_variable_length_inputs:
            widest = tuple(map(max, zip(*(tensor.shape[1:] for tensor in tensors), strict=True)))
            tensors = [
                tensor if tensor.shape[1:] == widest else pad_to(self.library, tensor, (tensor.shape[0], *widest))
                for tensor in tensors
            ]
        if padding:
            tensors = [*tensors, *([tensors[-1].rows(0, 1)] * padding)]
        return tensors[0] if len(tensors) == 1 else Tensor.joined(self.library, tensors)

    def _submit(
        self,
        feeds: Sequence[Endpoint],
        inputs: Sequence[Tensor],
        fetches: Sequence[Endpoint],
        rows: int,
        deadline: float,
    ) -> tuple[_Key, _Task]:
        shapes = tuple(
            (tensor.dtype, len(tensor.shape) if self.options.pad_variable_length_inputs else tensor.shape[1:])
            for tensor in inputs
        )
        key = (id(self), shapes, *((end.operation, end.index) for end in (*feeds, *fetches)))
        task = _Task(inputs=inputs, rows=rows, deadline=deadline)
        self._scheduler.add(key, _Queue(self, feeds, fetches), task)
        return key, task


def _wait(task: _Task) -> list[Tensor]:
    try:
        return task.result.result(max(task.deadline - time.monotonic(), 0))
    except FutureTimeoutError as error:
        raise _late() from error  # its batch may continue for other requests with later deadlines


def _late() -> RequestError:
    return RequestCode.DEADLINE_EXCEEDED.error("Run() timeout exceeded while waiting in batching queue")


def _rows(tensors: Sequence[Tensor]) -> int:
    """Return the number of rows of a request's tensors."""
    if not tensors:
        raise RequestCode.BATCH_INPUT.error("Batching Run() must have at least one input tensor")
    sizes = set()
    for tensor in tensors:
        if not tensor.shape:
            raise RequestCode.BATCH_INPUT.error("Batching Run() input tensors must have at least one dimension")
        sizes.add(tensor.shape[0])
    if len(sizes) > 1:
        raise RequestCode.BATCH_INPUT.error("Batching Run() input tensors must have equal 0th-dimension size")
    return int(sizes.pop())
