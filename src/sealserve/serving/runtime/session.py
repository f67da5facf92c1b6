"""A SavedModel loaded in TensorFlow, which any number of threads can call.

Source: tensorflow/tensorflow 2.21, ``tensorflow/c/c_api.h`` (``TF_LoadSessionFromSavedModel``, ``TF_SessionRun``).
"""

import ctypes
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from ctypes import c_char_p, c_void_p
from pathlib import Path
from typing import Any, Final, Protocol

from sealserve.serving.request_errors import Status
from sealserve.serving.runtime.bounded_work import bounded_outputs
from sealserve.serving.runtime.freed_memory import return_freed_memory
from sealserve.serving.runtime.guarded_copy import guarded_copy, original_names
from sealserve.serving.runtime.libtensorflow import Buffer, Endpoint, Library, TensorFlowError
from sealserve.serving.runtime.protos import ConfigProto, MetaGraphDef, RunOptions, SignatureDef, TensorInfo
from sealserve.serving.runtime.row_counts import counted_outputs
from sealserve.serving.runtime.shape_tolerance import tolerant_signatures
from sealserve.serving.runtime.tensors import Tensor
from sealserve.serving.runtime.unstoppable import unstoppable_signatures
from sealserve.serving.spans import active
from sealserve.tracing.span import SpanName

TIME_LIMIT: Final = 300.0
"""Default maximum of seconds for one run. TensorFlow Serving has no limit."""
_CALLER: Final = -1
"""Value of ``RunOptions.inter_op_thread_pool``: the calling thread computes, without handing work over to other threads
(``direct_session.cc``, ``Run``). TensorFlow cannot stop such a run at a timeout."""
_AMPLE: Final = 10
"""A run's timeout is not watched if it is at least this multiple of the last run's time with the same shapes."""
_REMEMBERED: Final = 1024
"""Maximum number of remembered combinations of shapes, so that clients cannot fill the memory."""

_DIGITS: Final = 9
"""Maximum number of digits of an output's index."""

_Key = tuple[Any, ...]


DeclaredShape = tuple[int | None, ...] | None
"""The sizes of a tensor, with None for an unknown size. None instead of a tuple means that the rank is unknown."""


class Runnable(Protocol):
    """An object that runs a model's graph: a `Session`, or a wrapper around a session."""

    library: Library

    def run(
        self, feeds: Sequence[tuple[Endpoint, Tensor]], fetches: Sequence[Endpoint], *, timeout: float | None = None
    ) -> list[Tensor]:
        """Return the tensors of ``fetches``, computed from ``feeds``; see `Session.run`."""
        ...

    def close(self) -> None:
        """Free the model."""
        ...


class Batchable(Runnable, Protocol):
    """An object that can run batches. It also provides information about rows from its signatures and its graph.

    Args:
        time_limit: Maximum seconds for one run, regardless of the caller's timeout.
    """

    time_limit: float

    def declared_shape(self, endpoint: Endpoint) -> DeclaredShape:
        """Return the declared shape of an input or an output; see `Session.declared_shape`."""
        ...

    def counts_rows(self, fetch: Endpoint) -> bool:
        """Return whether an output's number of rows depends on the inputs' values; see `Session.counts_rows`."""
        ...


class Session:
    """A loaded meta graph. Many threads may call `run` at the same time. Call `close` after the last call has returned.

    Args:
        library: TensorFlow.
        handle: The ``TF_Session``.
        graph: Its ``TF_Graph``.
        signatures: The meta graph's signatures by name.
        tolerant: The signatures that accept inputs of any shape.
        guarded: For each signature that fetches from a copy with guards, the new names of the operations in the copy.
        unstoppable: Signatures whose runs TensorFlow cannot stop, and the responsible operation.
        counted: Names of outputs whose number of rows depends on the inputs' values.
        bounded: Names of outputs whose time depends only on the shapes of the inputs.
        inline: Whether runs of such outputs may compute on the calling thread instead of TensorFlow's threads.
        time_limit: Maximum seconds for one run, regardless of the caller's timeout.
    """

    def __init__(
        self,
        library: Library,
        handle: c_void_p,
        graph: c_void_p,
        signatures: Mapping[str, SignatureDef],
        *,
        tolerant: frozenset[str],
        guarded: Mapping[str, Mapping[str, str]],
        unstoppable: Mapping[str, str],
        counted: frozenset[str],
        bounded: frozenset[str],
        inline: bool,
        time_limit: float,
    ) -> None:
        self.library = library
        self.signatures = signatures
        self.tolerant = tolerant
        self.unstoppable = unstoppable
        self._guarded = guarded
        self._handle = handle
        self._graph = graph
        self.time_limit = time_limit
        self._inline = _run_options(inter_op_thread_pool=_CALLER)
        self._bounded = set(self._places(bounded)) if inline else set()
        self._counted = set(self._places(counted))
        self._took: dict[_Key, float] = {}
        self._prepared: set[_Key] = set()
        self._declared: dict[_Key, DeclaredShape] = {}
        for signature in signatures.values():
            for info in (*signature.inputs.values(), *signature.outputs.values()):
                for place in set(self._places([info.name])):
                    self._declare(place, info)

    @classmethod
    def load(
        cls,
        library: Library,
        folder: Path,
        *,
        tags: Sequence[str],
        intra_op_threads: int,
        inter_op_threads: int,
        concurrent_runs: int = 1,
        time_limit: float = TIME_LIMIT,
        config: ConfigProto | None = None,
        inspect: Callable[[bytes], None] | None = None,
    ) -> "Session":
        """Load the meta graph with ``tags`` from ``folder``, restore its variables, and run its initializer.

        Args:
            library: TensorFlow.
            folder: The version folder, with ``saved_model.pb``.
            tags: The meta graph's tags.
            intra_op_threads: Threads within one operation; 0 for TensorFlow's default.
            inter_op_threads: Threads for parallel operations; 0 for TensorFlow's default.
            concurrent_runs: Maximum number of concurrent runs. TensorFlow gets at least this number of threads for
                operations. Otherwise a run could not be stopped at its deadline while another run holds the last
                thread.
            time_limit: Maximum seconds for one run, regardless of the caller's timeout.
            config: TensorFlow's other settings. Its numbers of threads are ignored.
            inspect: Called with the serialized ``MetaGraphDef`` that TensorFlow loaded. An error frees the model.

        Raises:
            TensorFlowError: The folder is not a SavedModel, has no such meta graph, or cannot be restored.
        """
        settings = ConfigProto()
        if config is not None:
            settings.CopyFrom(config)
        settings.device_count["GPU"] = 0
        settings.experimental.disable_output_partition_graphs = (
            True  # no caller reads them, and they have the constants
        )
        settings.experimental.optimize_for_static_graph = False  # otherwise a copy with guards could not be added
        settings.intra_op_parallelism_threads = intra_op_threads
        settings.inter_op_parallelism_threads = inter_op_threads
        if not settings.session_inter_op_thread_pool:
            threads = max(inter_op_threads or len(os.sched_getaffinity(0)), concurrent_runs)
            # All models share one named pool, because the size of the unnamed pool is set by the first model.
            settings.session_inter_op_thread_pool.add(num_threads=threads, global_name=f"sealserve-{threads}")
        encoded_settings = settings.SerializeToString()
        graph = c_void_p(library.TF_NewGraph())
        options = c_void_p(library.TF_NewSessionOptions())
        meta_graph = library.TF_NewBuffer()
        encoded = [tag.encode() for tag in tags]
        try:
            with library.status() as status:
                library.TF_SetConfig(options, encoded_settings, len(encoded_settings), status)
            with library.status() as status:
                handle = library.TF_LoadSessionFromSavedModel(
                    *(options, None, bytes(folder), (c_char_p * len(encoded))(*encoded), len(encoded)),
                    *(graph, meta_graph, status),
                )
            loaded = ctypes.string_at(meta_graph.contents.data, meta_graph.contents.length)
        except BaseException:
            library.TF_DeleteGraph(graph)
            raise
        finally:
            library.TF_DeleteBuffer(meta_graph)
            library.TF_DeleteSessionOptions(options)
        try:
            if inspect is not None:
                inspect(loaded)
            parsed = MetaGraphDef.FromString(loaded)
        except BaseException:
            _free(library, c_void_p(handle), graph)
            raise
        del loaded  # otherwise the constants would stay in memory
        signatures = {}
        for name, signature in parsed.signature_def.items():
            signatures[name] = SignatureDef()
            signatures[name].CopyFrom(signature)  # otherwise the meta graph and its constants would stay in memory
        guarded = _import_guarded(library, graph, parsed)
        return cls(
            library,
            c_void_p(handle),
            graph,
            signatures,
            tolerant=tolerant_signatures(parsed),
            guarded=guarded,
            unstoppable=unstoppable_signatures(parsed),
            counted=counted_outputs(parsed),
            bounded=bounded_outputs(parsed),
            inline=inter_op_threads == 1,
            time_limit=time_limit,
        )

    def endpoint(self, name: str) -> Endpoint:
        """Return the tensor of the graph with the name ``operation:index``, or ``operation`` for its first output.

        Raises:
            TensorFlowError: The tensor does not exist.
        """
        operation_name, _, index = name.rpartition(":")
        if not operation_name:  # tensorflow/core/graph/tensor_id.cc, ParseTensorName
            operation_name, index = name, "0"
        operation = self.library.TF_GraphOperationByName(self._graph, operation_name.encode())
        if (
            not operation
            or not index.isdecimal()
            or len(index) > _DIGITS
            or int(index) >= self.library.TF_OperationNumOutputs(operation)
        ):
            raise TensorFlowError(
                Status.INVALID_ARGUMENT,
                f"Tensor {name}, specified in either feed_devices or fetch_devices was not found in the Graph",
            )
        return Endpoint(operation, int(index))

    def output(self, signature: str, name: str) -> Endpoint:
        """Return the endpoint of an output: in the copy with guards if ``signature`` has one, else in the graph.

        Raises:
            TensorFlowError: The tensor does not exist.
        """
        operation, colon, index = name.rpartition(":")
        if not operation:
            operation, colon, index = name, "", ""
        renamed = self._guarded.get(signature, {}).get(operation, operation)
        return self.endpoint(f"{renamed}{colon}{index}")

    def declared_shape(self, endpoint: Endpoint) -> DeclaredShape:
        """Return the shape that the signatures declare for an input or an output."""
        return self._declared.get(_key_of(endpoint))

    def counts_rows(self, fetch: Endpoint) -> bool:
        """Return whether an output's number of rows depends on the inputs' values."""
        return _key_of(fetch) in self._counted

    def run(
        self, feeds: Sequence[tuple[Endpoint, Tensor]], fetches: Sequence[Endpoint], *, timeout: float | None = None
    ) -> list[Tensor]:
        """Return the tensors of ``fetches``, computed from ``feeds``.

        TensorFlow checks the timeout only between two operations, so a long operation ends first.

        Args:
            feeds: Pairs of an endpoint and the tensor to feed there.
            fetches: The endpoints to compute.
            timeout: Maximum seconds for the run. None, or a larger value, means the session's limit.

        Raises:
            TensorFlowError: TensorFlow rejected the inputs, failed or timed out.
        """
        library = self.library
        timeout = self.time_limit if timeout is None else min(timeout, self.time_limit)
        wanted = tuple([_key_of(end) for end in fetches])
        key = self._key(feeds, wanted)
        took = None if key is None else self._took.get(key)
        options = self._inline if took is not None and timeout > _AMPLE * took else _timed(timeout)
        inputs = (Endpoint * len(feeds))(*(endpoint for endpoint, _ in feeds))
        values = (c_void_p * len(feeds))(*(tensor.handle for _, tensor in feeds))
        outputs = (Endpoint * len(fetches))(*fetches)
        results = (c_void_p * len(fetches))()
        started = time.monotonic()
        try:
            with library.status() as status:
                library.TF_SessionRun(
                    *(self._handle, Buffer.over(options), inputs, values, len(feeds)),
                    *(outputs, results, len(fetches), None, 0, None, status),
                )
        except TensorFlowError as error:
            raise TensorFlowError(error.status, original_names(error.text)) from error
        finally:
            ended = time.monotonic()
            for trace in active():
                trace.add(SpanName.TENSORFLOW, started, ended)
        if wanted not in self._prepared:
            self._after_preparation(wanted)
        if key is not None:
            if len(self._took) >= _REMEMBERED:
                self._took.clear()
            self._took[key] = ended - started
        return [Tensor(library, handle) for handle in results]

    def _after_preparation(self, wanted: _Key) -> None:
        """Return memory to the system after the first run of outputs. TensorFlow prepared its graph in this run."""
        if len(self._prepared) >= _REMEMBERED:
            self._prepared.clear()
        self._prepared.add(wanted)
        return_freed_memory()

    def _key(self, feeds: Sequence[tuple[Endpoint, Tensor]], wanted: _Key) -> _Key | None:
        """Return the key that determines the time of a run, or None if the inputs' values can affect the time.

        Args:
            feeds: The fed tensors.
            wanted: The places of the fetched tensors.
        """
        if not self._bounded.issuperset(wanted):
            return None
        return (wanted, *[(end.operation, end.index, tensor.shape) for end, tensor in feeds])

    def _places(self, names: Iterable[str]) -> Iterator[_Key]:
        """Yield the places of the existing tensors in ``names``, in the graph and in its copies with guards."""
        for name in names:
            if self._has(name):
                yield _key_of(self.endpoint(name))
                for signature in self._guarded:
                    yield _key_of(self.output(signature, name))

    def _has(self, name: str) -> bool:
        try:
            self.endpoint(name)
        except TensorFlowError:
            return False
        return True

    def _declare(self, key: _Key, info: TensorInfo) -> None:
        """Record the shape of a tensor. If signatures differ, only the sizes that they agree on are kept."""
        shape, former = declared_shape(info), self._declared.get(key, ())
        if former in ((), shape):
            self._declared[key] = shape
        elif shape is None or former is None or len(shape) != len(former):
            self._declared[key] = None
        else:
            self._declared[key] = tuple(
                size if size == other else None for size, other in zip(shape, former, strict=True)
            )

    def close(self) -> None:
        """Free the model."""
        _free(self.library, self._handle, self._graph)


def _free(library: Library, handle: c_void_p, graph: c_void_p) -> None:
    with library.status() as status:
        library.TF_CloseSession(handle, status)
    with library.status() as status:
        library.TF_DeleteSession(handle, status)
    library.TF_DeleteGraph(graph)


def declared_shape(info: TensorInfo) -> DeclaredShape:
    """Return the declared shape of a tensor of a signature."""
    if info.tensor_shape.unknown_rank or not info.HasField("tensor_shape"):
        return None
    return tuple(dim.size if dim.size >= 0 else None for dim in info.tensor_shape.dim)


def _key_of(endpoint: Endpoint) -> _Key:
    return (endpoint.operation, endpoint.index)


def _timed(timeout: float) -> bytes:
    return _run_options(timeout_in_ms=max(1, int(timeout * 1000)))


def _run_options(**options: int) -> bytes:
    return bytes(RunOptions(**options).SerializeToString())


def _import_guarded(library: Library, graph: c_void_p, meta_graph: MetaGraphDef) -> Mapping[str, Mapping[str, str]]:
    """Import the copy with guards into ``graph``; return the new names of the copied operations, by signature."""
    copy = guarded_copy(meta_graph)
    if copy is None:
        return {}
    encoded = copy.graph.SerializeToString()
    options = c_void_p(library.TF_NewImportGraphDefOptions())
    try:
        for name, index in copy.tensors:
            place = Endpoint(library.TF_GraphOperationByName(graph, name.encode()), index)
            library.TF_ImportGraphDefOptionsAddInputMapping(options, name.encode(), index, place)
        for name in copy.controls:
            operation = library.TF_GraphOperationByName(graph, name.encode())
            library.TF_ImportGraphDefOptionsRemapControlDependency(options, name.encode(), operation)
        with library.status() as status:
            library.TF_GraphImportGraphDef(graph, Buffer.over(encoded), options, status)
    finally:
        library.TF_DeleteImportGraphDefOptions(options)
    return copy.copied
