"""TensorFlow's C API, exported by the shared library of the installed module ``tensorflow``.

The server does not use TensorFlow's Python API. The C API was measured side by side on one machine against TensorFlow
1's loader and ``tf.saved_model.load``:

- It is ready to load a model in an eighth of the time.
- It then uses 58 MB of private memory, not 206.
- With a frozen ResNet50 it uses 1.3 GB after the first call, not 1.5 and 2.0.
- A request to half_plus_two, including the messages for request and answer, takes 0.7 of the time of the bare call with
  either of the others.

A SavedModel is loaded by the same function as in TensorFlow Serving. So both servers load the same models, and report
the same failures.

Source: tensorflow/tensorflow 2.21, ``tensorflow/c/c_api.h``, ``tf_tensor.h``, ``tf_buffer.h``, ``tf_status.h``,
``tf_tstring.h``.
"""

import ctypes
import functools
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import POINTER, Structure, c_char_p, c_int, c_int64, c_size_t, c_void_p
from typing import Any, Final

from sealserve.serving.codes import ServingCode
from sealserve.serving.request_errors import Status
from sealserve.serving.runtime.protos import tensorflow_folder

SPEC_VERSION: Final = "2.21"
_LIBRARY: Final = "libtensorflow_cc.so.2"
_BRIEF: Final = 2**16
"""Up to this many bytes, TensorFlow parses faster than Python can switch to another thread and back."""
TSTRING_SIZE: Final = 24
"""Bytes of a ``TF_TString``, which is an element of a string tensor."""


class TensorFlowError(Exception):
    """An error of TensorFlow. Its text may quote an input, so it must not be logged or sent to a client.

    Args:
        status: The canonical code.
        text: TensorFlow's message.
    """

    def __init__(self, status: Status, text: str) -> None:
        super().__init__(status.name)
        self.status = status
        self.text = text


class Buffer(Structure):
    """``TF_Buffer``: bytes that the caller keeps alive."""

    _fields_ = (("data", c_void_p), ("length", c_size_t), ("deallocator", c_void_p))

    @classmethod
    def over(cls, data: bytes) -> "Buffer":
        """Return a buffer over ``data``, which must outlive it."""
        return cls(ctypes.cast(c_char_p(data), c_void_p), len(data), None)


class Endpoint(Structure):
    """``TF_Output`` (and ``TF_Input``): an output of an operation of the graph."""

    _fields_ = (("operation", c_void_p), ("index", c_int))


_BUFFER = POINTER(Buffer)
_ENDPOINTS = POINTER(Endpoint)
_HANDLES = POINTER(c_void_p)

_FUNCTIONS: Final[tuple[tuple[str, Any, tuple[Any, ...], bool], ...]] = (
    # name, result, arguments, whether it can take long (then other Python threads can run during the call)
    ("TF_Version", c_char_p, (), False),
    ("TF_NewStatus", c_void_p, (), False),
    ("TF_DeleteStatus", None, (c_void_p,), False),
    ("TF_GetCode", c_int, (c_void_p,), False),
    ("TF_Message", c_char_p, (c_void_p,), False),
    ("TF_NewBuffer", _BUFFER, (), False),
    ("TF_DeleteBuffer", None, (_BUFFER,), False),
    ("TF_NewGraph", c_void_p, (), False),
    ("TF_DeleteGraph", None, (c_void_p,), True),
    ("TF_GraphOperationByName", c_void_p, (c_void_p, c_char_p), False),
    ("TF_OperationNumOutputs", c_int, (c_void_p,), False),
    ("TF_NewImportGraphDefOptions", c_void_p, (), False),
    ("TF_DeleteImportGraphDefOptions", None, (c_void_p,), False),
    ("TF_ImportGraphDefOptionsAddInputMapping", None, (c_void_p, c_char_p, c_int, Endpoint), False),
    ("TF_ImportGraphDefOptionsRemapControlDependency", None, (c_void_p, c_char_p, c_void_p), False),
    ("TF_GraphImportGraphDef", None, (c_void_p, _BUFFER, c_void_p, c_void_p), True),
    ("TF_NewSessionOptions", c_void_p, (), False),
    ("TF_SetConfig", None, (c_void_p, c_char_p, c_size_t, c_void_p), False),
    ("TF_DeleteSessionOptions", None, (c_void_p,), False),
    (
        "TF_LoadSessionFromSavedModel",
        c_void_p,
        (c_void_p, _BUFFER, c_char_p, POINTER(c_char_p), c_int, c_void_p, _BUFFER, c_void_p),
        True,
    ),
    (
        "TF_SessionRun",
        None,
        (
            *(c_void_p, _BUFFER, _ENDPOINTS, _HANDLES, c_int, _ENDPOINTS, _HANDLES, c_int),
            *(_HANDLES, c_int, _BUFFER, c_void_p),
        ),
        True,
    ),
    ("TF_CloseSession", None, (c_void_p, c_void_p), True),
    ("TF_DeleteSession", None, (c_void_p, c_void_p), True),
    ("TF_AllocateTensor", c_void_p, (c_int, POINTER(c_int64), c_int, c_size_t), False),
    ("TF_DeleteTensor", None, (c_void_p,), False),
    ("TF_TensorFromProto", None, (_BUFFER, c_void_p, c_void_p), True),
    ("TF_TensorType", c_int, (c_void_p,), False),
    ("TF_NumDims", c_int, (c_void_p,), False),
    ("TF_Dim", c_int64, (c_void_p, c_int), False),
    ("TF_TensorByteSize", c_size_t, (c_void_p,), False),
    ("TF_TensorData", c_void_p, (c_void_p,), False),
    ("TF_StringGetSize", c_size_t, (c_void_p,), False),
    ("TF_StringGetDataPointer", c_void_p, (c_void_p,), False),
)


class Library:
    """The functions of the C API, by their names.

    Args:
        path: The path of the shared library.

    Attributes:
        others: The functions of the library that do not belong to the C API.

    Raises:
        UnavailableError: `server.tensorflow-library`: The library cannot be loaded, or lacks a function.
    """

    def __init__(self, path: str) -> None:
        try:
            slow, quick = ctypes.CDLL(path), ctypes.PyDLL(path)
            for name, result, arguments, long in _FUNCTIONS:
                function = getattr(slow if long else quick, name)
                function.restype, function.argtypes = result, arguments
                setattr(self, name, function)
            self.others = slow
            self._parse_briefly = quick.TF_TensorFromProto
            self._parse_briefly.restype, self._parse_briefly.argtypes = None, self.TF_TensorFromProto.argtypes
        except (OSError, AttributeError) as error:
            raise ServingCode.SERVER_TENSORFLOW_LIBRARY.error(
                f"TensorFlow's library {path} cannot be loaded: {error}.",
                hint=f"Install tensorflow {SPEC_VERSION}: run `make setup` in a checkout of sealserve.",
            ) from error

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)  # for type checkers: attributes that __init__ sets have no declared type

    def status(self) -> "_Lent":
        """Return a ``TF_Status`` for one call, as a context manager that raises TensorFlowError if the call failed."""
        return _Lent(self)

    def parse_tensor(self, proto: bytes, tensor: int | None) -> None:
        """Replace ``tensor`` by the tensor in a serialized TensorProto.

        Raises:
            TensorFlowError: The shape does not match the values.
        """
        parse = self.TF_TensorFromProto if len(proto) > _BRIEF else self._parse_briefly
        with self.status() as status:
            parse(Buffer.over(proto), tensor, status)

    @property
    def version(self) -> str:
        """TensorFlow's version."""
        return str(self.TF_Version().decode())


class _Lent:
    """A ``TF_Status`` for one call. It is a class, because a generator-based context manager is three times slower.

    Args:
        library: TensorFlow.
    """

    __slots__ = ("_handle", "_library")

    def __init__(self, library: Library) -> None:
        self._library = library
        self._handle = c_void_p(library.TF_NewStatus())

    def __enter__(self) -> c_void_p:
        return self._handle

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        library = self._library
        try:
            code = library.TF_GetCode(self._handle)
            if code and kind is None:
                text = library.TF_Message(self._handle).decode("utf-8", "replace")
                raise TensorFlowError(Status(code) if code in _CODES else Status.UNKNOWN, text)
        finally:
            library.TF_DeleteStatus(self._handle)


_CODES = frozenset(Status)


@functools.cache
def library() -> Library:
    """Return the library, which is loaded once.

    TensorFlow's own log is turned off first. Its warnings quote input values (observed in 2.21: "Local rendezvous is
    aborting with status: ..."), and the host can read an enclave's standard error. Every error is still returned as a
    status. TensorFlow is also configured not to search for GPUs.

    Raises:
        TensorFlowMissingError: TensorFlow is not installed.
        UnavailableError: `server.tensorflow-library`: The library cannot be loaded.
    """
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    path = str(tensorflow_folder() / _LIBRARY)
    with _quiet():
        return Library(path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Discard the messages that the library writes to standard error while it is loaded. No setting disables them."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
