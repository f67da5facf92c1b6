"""Requests that run together: concatenated on the way in, cut apart on the way out.

Requests share a batch only if they feed and fetch the very same tensors, with the same shapes but for the first
dimension (with ``pad_variable_length_inputs``, the same ranks). So nobody's request fails because of a stranger's
shape; and where a batch fails, its requests are run one by one, so that only those fail that are at fault. In both,
TensorFlow Serving lets the whole batch fail. `batch_rows` decides which outputs can be cut apart.

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

_Key = tuple[Any, ...]


@dataclass(eq=False, slots=True, kw_only=True)
class _Task:
    """One request, or a part of one.

    Args:
        inputs: Its tensors, in the queue's order of feeds.
        rows: How many rows it has.
        deadline: When its sender gives up, or the server does.
    """

    inputs: Sequence[Tensor]
    rows: int
    deadline: float
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
        metrics: Where batches are counted.
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
        """Return the threads that ``parameters`` ask for.

        Raises:
            BatchingParametersError: There would be none.
        """
        return cls(
            threads=positive(parameters, "num_batch_threads", len(os.sched_getaffinity(0))),
            name=parameters.thread_pool_name.value or "batch_threads",
            metrics=metrics,
        )

    def add(self, key: _Key, queue: _Queue, task: _Task) -> None:
        """Put ``task`` into the last batch of the queue ``key`` (``queue``, where there is none yet).

        Raises:
            RequestError: `request.batch-queue-full`: As many batches wait as may wait.
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
                # Look for a queue whose first batch is full, or has waited for its time.
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
                # At the end all batches are due, so nothing is left now.
                if self._closed:
                    return None
                # Else sleep until the next batch is due, or a request comes.
                self._changed.wait(None if soonest is None else soonest - now)


class BatchingSession:
    """A session whose runs wait for others to run with.

    Args:
        session: What runs the batches.
        scheduler: The threads for them.
        options: How.
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
            TensorFlowError: TensorFlow refused the inputs, failed or gave up.
            RequestError: The request cannot be part of a batch, or waited for too long.
        """
        # Requests that name the same inputs in another order share a queue.
        feeds = sorted(feeds, key=lambda feed: (feed[0].operation or 0, feed[0].index))
        # Refuse what fits into no batch; without rows there is nothing to join or to cut.
        rows = _rows([tensor for _, tensor in feeds])
        if rows > self.options.max_batch_size:
            raise RequestCode.BATCH_INPUT.error(
                f"Task size {rows} is larger than maximum input batch size {self.options.max_batch_size}"
            )
        if not rows:
            return self._session.run(feeds, fetches, timeout=timeout)
        # A request of more rows than a batch runs in parts, if its outputs can be joined again.
        step = self.options.max_execution_batch_size
        if rows > step and (reason := self._rows.without_rows([end for end, _ in feeds], fetches)):
            raise RequestCode.BATCH_OUTPUT.error(reason)
        # Where a batch fails, its requests run again one by one: within the same deadline.
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
            # No part may run for a request that ended: the model may be freed then.
            for key, task in parts:
                if task.result.cancel():
                    self._scheduler.withdraw(key, task)
        if len(results) == 1:
            return results[0]
        return join(self.library, results, [task.rows for _, task in parts])

    def close(self) -> None:
        """Free the model, once no batch runs any more: a request whose deadline passed does not wait for its batch."""
        with self._idle:
            self._idle.wait_for(lambda: not self._running)
        self._session.close()

    def process(
        self, feeds: Sequence[Endpoint], fetches: Sequence[Endpoint], tasks: Sequence[_Task], pool: str
    ) -> None:
        """Run ``tasks`` together, and give each its result."""
        with self._idle:
            self._running += 1  # before a task says that it runs: from then on its request may leave
        try:
            # Leave out requests whose senders gave up, and count how long the others waited.
            wanted = [task for task in tasks if task.result.set_running_or_notify_cancel()]
            now = time.monotonic()
            for task in wanted:
                self._scheduler.metrics.waited(pool, now - task.since)
            # Run together only what can be cut apart again.
            if len(wanted) > 1 and not self._rows.may_share(feeds, fetches, wanted[0].inputs):
                self._process_alone(feeds, fetches, wanted)
            else:
                self._process(feeds, fetches, wanted)
        finally:
            with self._idle:
                self._running -= 1
                self._idle.notify_all()

    def _process(self, feeds: Sequence[Endpoint], fetches: Sequence[Endpoint], tasks: Sequence[_Task]) -> None:
        # Refuse requests whose deadline passed in the queue.
        now = time.monotonic()
        late = [task for task in tasks if task.deadline <= now]
        for task in late:
            task.result.set_exception(_late())
        tasks = [task for task in tasks if task not in late]
        if not tasks:
            return
        # Run the others. Where a batch fails, run its requests one by one, so that only those at fault fail.
        try:
            results = self._run_together(feeds, fetches, tasks)
        except (TensorFlowError, RequestError) as error:
            if len(tasks) == 1:
                tasks[0].result.set_exception(error)
            else:
                self._process_alone(feeds, fetches, tasks)
        except BaseException as error:  # noqa: BLE001  # whoever waits gets it
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
        # Fill up to the next allowed size, if the added rows can be cut off again.
        rows = sum(task.rows for task in tasks)
        filled = () if self._rows.without_rows(feeds, fetches) else self.options.allowed_batch_sizes
        size = next((allowed for allowed in filled if allowed >= rows), rows)
        self._scheduler.metrics.batch([task.rows for task in tasks], size, size - rows)
        # Join the inputs and run the model, for as long as the most patient request waits.
        timeout = max(max(task.deadline for task in tasks) - time.monotonic(), 0.001)
        merged = [
            self._column([task.inputs[index] for task in tasks], padding=size - rows) for index in range(len(feeds))
        ]
        outputs = self._session.run(list(zip(feeds, merged, strict=True)), fetches, timeout=timeout)
        # Cut the outputs apart, if each has a row for each row that went in.
        reason = self._rows.check(fetches, merged, outputs, size)
        if len(tasks) == 1 and size == rows:
            return [outputs]  # no row of anybody else is in them
        if len(tasks) == 1:
            reason = next(filter(None, (not_by_row(output.shape, size) for output in outputs)), None)
        if reason is not None:
            raise RequestCode.BATCH_OUTPUT.error(reason)
        return cut(outputs, [task.rows for task in tasks])

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
        raise _late() from error  # its batch may run on for others, who have more time


def _late() -> RequestError:
    return RequestCode.DEADLINE_EXCEEDED.error("Run() timeout exceeded while waiting in batching queue")


def _rows(tensors: Sequence[Tensor]) -> int:
    """Return how many rows the tensors of a request have."""
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
