"""A SavedModel in TensorFlow's memory, and calls into it from any number of threads.

Source: tensorflow/tensorflow 2.21, ``tensorflow/c/c_api.h`` (``TF_LoadSessionFromSavedModel``, ``TF_SessionRun``).
"""

import ctypes
from collections.abc import Mapping, Sequence
from ctypes import c_char_p, c_void_p
from pathlib import Path
from typing import Protocol

from sealserve.serving.libtensorflow import Buffer, Endpoint, Library, TensorFlowError
from sealserve.serving.protos import ConfigProto, MetaGraphDef, RunOptions, SignatureDef
from sealserve.serving.request_errors import Status
from sealserve.serving.tensors import Tensor


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
    """

    def __init__(
        self, library: Library, handle: c_void_p, graph: c_void_p, signatures: Mapping[str, SignatureDef]
    ) -> None:
        self.library = library
        self.signatures = signatures
        self._handle = handle
        self._graph = graph

    @classmethod
    def load(
        cls, library: Library, folder: Path, *, tags: Sequence[str], intra_op_threads: int, inter_op_threads: int
    ) -> "Session":
        """Load the meta graph with ``tags`` from ``folder``: restore its variables and run its initialiser.

        Args:
            library: TensorFlow.
            folder: The version folder, with ``saved_model.pb``.
            tags: The meta graph's tags.
            intra_op_threads: Threads for one operation; 0 lets TensorFlow decide.
            inter_op_threads: Threads for operations beside each other; 0 lets TensorFlow decide.

        Raises:
            TensorFlowError: It is no SavedModel, has no such meta graph, or cannot be restored.
        """
        config = ConfigProto(
            device_count={"GPU": 0},
            intra_op_parallelism_threads=intra_op_threads,
            inter_op_parallelism_threads=inter_op_threads,
        ).SerializeToString()
        graph = c_void_p(library.TF_NewGraph())
        options = c_void_p(library.TF_NewSessionOptions())
        meta_graph = library.TF_NewBuffer()
        encoded = [tag.encode() for tag in tags]
        try:
            with library.status() as status:
                library.TF_SetConfig(options, config, len(config), status)
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
        return cls(library, c_void_p(handle), graph, signatures)

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
        options = RunOptions(timeout_in_ms=max(1, int(timeout * 1000))) if timeout is not None else RunOptions()
        inputs = (Endpoint * len(feeds))(*(endpoint for endpoint, _ in feeds))
        values = (c_void_p * len(feeds))(*(tensor.handle for _, tensor in feeds))
        outputs = (Endpoint * len(fetches))(*fetches)
        results = (c_void_p * len(fetches))()
        encoded = options.SerializeToString()
        with library.status() as status:
            library.TF_SessionRun(
                *(self._handle, Buffer.over(encoded), inputs, values, len(feeds)),
                *(outputs, results, len(fetches), None, 0, None, status),
            )
        return [Tensor(library, handle) for handle in results]

    def close(self) -> None:
        """Free the model."""
        with self.library.status() as status:
            self.library.TF_CloseSession(self._handle, status)
        with self.library.status() as status:
            self.library.TF_DeleteSession(self._handle, status)
        self.library.TF_DeleteGraph(self._graph)
