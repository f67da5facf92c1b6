"""A SavedModel in TensorFlow's memory, and calls into it from any number of threads.

Source: tensorflow/tensorflow 2.21, ``tensorflow/c/c_api.h`` (``TF_LoadSessionFromSavedModel``, ``TF_SessionRun``).
"""

import ctypes
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ctypes import c_char_p, c_void_p
from pathlib import Path
from typing import Any, Final, Protocol

from sealserve.serving.request_errors import Status
from sealserve.serving.runtime.bounded_work import bounded_outputs
from sealserve.serving.runtime.guarded_copy import guarded_copy, original_names
from sealserve.serving.runtime.libtensorflow import Buffer, Endpoint, Library, TensorFlowError
from sealserve.serving.runtime.protos import ConfigProto, MetaGraphDef, RunOptions, SignatureDef, TensorInfo
from sealserve.serving.runtime.row_counts import counted_outputs
from sealserve.serving.runtime.shape_tolerance import tolerant_signatures
from sealserve.serving.runtime.tensors import Tensor
from sealserve.serving.runtime.unstoppable import unstoppable_signatures

TIME_LIMIT: Final = 300.0
"""Seconds that one run may take, unless the command line says otherwise. TensorFlow Serving has no limit."""
_CALLER: Final = -1
"""``RunOptions.inter_op_thread_pool``: the thread that calls computes, and nothing is handed over
(``direct_session.cc``, ``Run``). TensorFlow cannot stop such a run at a timeout."""
_AMPLE: Final = 10
"""A timeout of so many times the last run with the same shapes needs nobody who watches it."""
_REMEMBERED: Final = 1024
"""How many combinations of shapes are remembered. The limit keeps clients from filling the memory."""

_DIGITS: Final = 9
"""The most digits of an output's index."""

_Key = tuple[Any, ...]


DeclaredShape = tuple[int | None, ...] | None
"""The sizes of a tensor, None where a size is open; None as a whole where the rank is open."""


class Runnable(Protocol):
    """What runs a model's graph: a `Session`, or what stands in front of one."""

    library: Library

    def run(
        self, feeds: Sequence[tuple[Endpoint, Tensor]], fetches: Sequence[Endpoint], *, timeout: float | None = None
    ) -> list[Tensor]:
        """Return the tensors of ``fetches``, computed from ``feeds``, as `Session.run`."""
        ...

    def close(self) -> None:
        """Free the model."""
        ...


class Batchable(Runnable, Protocol):
    """What can run batches: it also says what its signatures and its graph show about rows.

    Args:
        time_limit: Seconds that one run may take, whatever its caller allows.
    """

    time_limit: float

    def declared_shape(self, endpoint: Endpoint) -> DeclaredShape:
        """Return the shape that the signatures declare for an input or an output, as `Session.declared_shape`."""
        ...

    def counts_rows(self, fetch: Endpoint) -> bool:
        """Whether the values of the inputs decide how many rows an output has, as `Session.counts_rows`."""
        ...


class Session:
    """A loaded meta graph. `run` may be called from many threads at once; `close` after the last one returned.

    Args:
        library: TensorFlow.
        handle: The ``TF_Session``.
        graph: Its ``TF_Graph``.
        signatures: The meta graph's signatures by name.
        tolerant: Those of them that may be given inputs of any shape.
        guarded: For those of them that fetch from a copy with guards, the new names of the operations in it.
        unstoppable: Signatures whose runs TensorFlow could not stop, and the operation that is at fault.
        counted: Names of outputs that have a number of rows that the values of the inputs decide.
        bounded: Names of outputs whose time follows from the shapes of the inputs.
        inline: Whether such a run may compute on the thread that calls it, rather than on TensorFlow's own.
        time_limit: Seconds that one run may take, whatever its caller allows.
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
    ) -> "Session":
        """Load the meta graph with ``tags`` from ``folder``: restore its variables and run its initialiser.

        Args:
            library: TensorFlow.
            folder: The version folder, with ``saved_model.pb``.
            tags: The meta graph's tags.
            intra_op_threads: Threads for one operation; 0 lets TensorFlow decide.
            inter_op_threads: Threads for operations beside each other; 0 lets TensorFlow decide.
            concurrent_runs: How many runs there can be at once. TensorFlow has at least as many threads for operations:
                else a run could not be stopped at its deadline while another one holds the last thread.
            time_limit: Seconds that one run may take, whatever its caller allows.
            config: TensorFlow's other settings; the threads that it names do not count.

        Raises:
            TensorFlowError: It is no SavedModel, has no such meta graph, or cannot be restored.
        """
        settings = ConfigProto()
        if config is not None:
            settings.CopyFrom(config)
        settings.device_count["GPU"] = 0
        settings.experimental.optimize_for_static_graph = False  # else no copy with guards could be added
        settings.intra_op_parallelism_threads = intra_op_threads
        settings.inter_op_parallelism_threads = inter_op_threads
        if not settings.session_inter_op_thread_pool:
            threads = max(inter_op_threads or len(os.sched_getaffinity(0)), concurrent_runs)
            # All models share one pool. It has a name, since the size of the nameless one is that of the first model.
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
            parsed = MetaGraphDef.FromString(ctypes.string_at(meta_graph.contents.data, meta_graph.contents.length))
        except BaseException:
            library.TF_DeleteGraph(graph)
            raise
        finally:
            library.TF_DeleteBuffer(meta_graph)
            library.TF_DeleteSessionOptions(options)
        signatures = {}
        for name, signature in parsed.signature_def.items():
            signatures[name] = SignatureDef()
            signatures[name].CopyFrom(signature)  # else the whole meta graph, constants and all, would stay in memory
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
        """Return the tensor of the graph that is called ``operation:index``, or ``operation`` for its first one.

        Raises:
            TensorFlowError: There is none.
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
        """Return where an output is fetched: in the copy with guards, if ``signature`` has one, else in the graph.

        Raises:
            TensorFlowError: There is none.
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
        """Whether the values of the inputs decide how many rows an output has."""
        return _key_of(fetch) in self._counted

    def run(
        self, feeds: Sequence[tuple[Endpoint, Tensor]], fetches: Sequence[Endpoint], *, timeout: float | None = None
    ) -> list[Tensor]:
        """Return the tensors of ``fetches``, computed from ``feeds``.

        TensorFlow gives up between two operations: an operation that takes long ends first.

        Args:
            feeds: What is put in, and where.
            fetches: What is asked for.
            timeout: Seconds after which TensorFlow gives up; at most the session's limit, which None means.

        Raises:
            TensorFlowError: TensorFlow refused the inputs, failed or gave up.
        """
        library = self.library
        timeout = self.time_limit if timeout is None else min(timeout, self.time_limit)
        key = self._key(feeds, fetches)
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
        if key is not None:
            if len(self._took) >= _REMEMBERED:
                self._took.clear()
            self._took[key] = time.monotonic() - started
        return [Tensor(library, handle) for handle in results]

    def _key(self, feeds: Sequence[tuple[Endpoint, Tensor]], fetches: Sequence[Endpoint]) -> _Key | None:
        """Return what determines the time of a run, or None where values of the inputs can do so."""
        wanted = tuple([_key_of(end) for end in fetches])
        if not self._bounded.issuperset(wanted):
            return None
        return (wanted, *[(end.operation, end.index, tensor.shape) for end, tensor in feeds])

    def _places(self, names: Iterable[str]) -> Iterator[_Key]:
        """Yield where the tensors ``names`` are, in the graph and in its copies with guards; those that exist."""
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
        """Note the shape of a tensor; where signatures differ, only what they agree on counts."""
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
        with self.library.status() as status:
            self.library.TF_CloseSession(self._handle, status)
        with self.library.status() as status:
            self.library.TF_DeleteSession(self._handle, status)
        self.library.TF_DeleteGraph(self._graph)


def declared_shape(info: TensorInfo) -> DeclaredShape:
    """Return the shape of a tensor of a signature."""
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
    """Import the copy with guards into ``graph``; return the new names of what was copied, by signature."""
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
