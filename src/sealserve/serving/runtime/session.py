"""A SavedModel in TensorFlow's memory, and calls into it from any number of threads.

Source: tensorflow/tensorflow 2.21, ``tensorflow/c/c_api.h`` (``TF_LoadSessionFromSavedModel``, ``TF_SessionRun``).
"""

import ctypes
import time
from collections.abc import Mapping, Sequence
from ctypes import c_char_p, c_void_p
from pathlib import Path
from typing import Final, Protocol

from sealserve.serving.request_errors import Status
from sealserve.serving.runtime.guarded_copy import guarded_copy, original_names
from sealserve.serving.runtime.libtensorflow import Buffer, Endpoint, Library, TensorFlowError
from sealserve.serving.runtime.protos import ConfigProto, MetaGraphDef, RunOptions, SignatureDef
from sealserve.serving.runtime.shape_tolerance import tolerant_signatures
from sealserve.serving.runtime.tensors import Tensor

_CALLER: Final = -1
"""``RunOptions.inter_op_thread_pool``: the thread that calls computes, and nothing is handed over
(``direct_session.cc``, ``Run``). TensorFlow cannot stop such a run at a timeout."""
_AMPLE: Final = 10
"""A timeout of so many times the longest run so far needs nobody who watches it."""


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


class Session:
    """A loaded meta graph. `run` may be called from many threads at once; `close` after the last one returned.

    Args:
        library: TensorFlow.
        handle: The ``TF_Session``.
        graph: Its ``TF_Graph``.
        signatures: The meta graph's signatures by name.
        tolerant: Those of them that may be given inputs of any shape.
        guarded: For those of them that fetch from a copy with guards, the new names of the operations in it.
        inline: Whether a run computes on the thread that calls it, rather than on TensorFlow's own.
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
        inline: bool,
    ) -> None:
        self.library = library
        self.signatures = signatures
        self.tolerant = tolerant
        self._guarded = guarded
        self._handle = handle
        self._graph = graph
        self._inline = inline
        self._untimed = _run_options(inter_op_thread_pool=_CALLER) if inline else _run_options()
        self._longest: float | None = None

    @classmethod
    def load(
        cls,
        library: Library,
        folder: Path,
        *,
        tags: Sequence[str],
        intra_op_threads: int,
        inter_op_threads: int,
        config: ConfigProto | None = None,
    ) -> "Session":
        """Load the meta graph with ``tags`` from ``folder``: restore its variables and run its initialiser.

        Args:
            library: TensorFlow.
            folder: The version folder, with ``saved_model.pb``.
            tags: The meta graph's tags.
            intra_op_threads: Threads for one operation; 0 lets TensorFlow decide.
            inter_op_threads: Threads for operations beside each other; 0 lets TensorFlow decide.
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
        tolerant = tolerant_signatures(parsed)
        return cls(
            library,
            c_void_p(handle),
            graph,
            signatures,
            tolerant=tolerant,
            guarded=guarded,
            inline=inter_op_threads == 1,
        )

    def endpoint(self, name: str) -> Endpoint:
        """Return the tensor of the graph that is called ``operation:index``.

        Raises:
            TensorFlowError: There is none.
        """
        operation_name, _, index = name.rpartition(":")
        operation = self.library.TF_GraphOperationByName(self._graph, operation_name.encode())
        if not operation or not index.isdecimal() or int(index) >= self.library.TF_OperationNumOutputs(operation):
            raise TensorFlowError(
                Status.INVALID_ARGUMENT,
                f"Tensor {name}, specified in either feed_devices or fetch_devices was not found in the Graph",
            )
        return Endpoint(operation, int(index))

    def output(self, signature: str, name: str) -> Endpoint:
        """Return where the output of ``signature`` that is called ``operation:index`` is fetched.

        Raises:
            TensorFlowError: There is none.
        """
        operation, colon, index = name.rpartition(":")
        renamed = self._guarded.get(signature, {}).get(operation, operation)
        return self.endpoint(f"{renamed}{colon}{index}")

    def run(
        self, feeds: Sequence[tuple[Endpoint, Tensor]], fetches: Sequence[Endpoint], *, timeout: float | None = None
    ) -> list[Tensor]:
        """Return the tensors of ``fetches``, computed from ``feeds``.

        Args:
            feeds: What is put in, and where.
            fetches: What is asked for.
            timeout: Seconds after which TensorFlow gives up; None for never.

        Raises:
            TensorFlowError: TensorFlow refused the inputs, failed or gave up.
        """
        library = self.library
        options = self._options(timeout)
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
        took = time.monotonic() - started
        if self._longest is None or took > self._longest:
            self._longest = took
        return [Tensor(library, handle) for handle in results]

    def _options(self, timeout: float | None) -> bytes:
        """Return the serialised RunOptions of a run that may take ``timeout`` seconds."""
        ample = timeout is None or (self._longest is not None and timeout > _AMPLE * self._longest)
        if timeout is None or (self._inline and ample):
            return self._untimed
        return _run_options(timeout_in_ms=max(1, int(timeout * 1000)))

    def close(self) -> None:
        """Free the model."""
        with self.library.status() as status:
            self.library.TF_CloseSession(self._handle, status)
        with self.library.status() as status:
            self.library.TF_DeleteSession(self._handle, status)
        self.library.TF_DeleteGraph(self._graph)


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
