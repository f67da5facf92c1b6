"""TensorFlow's C API, as the shared library of the installed module ``tensorflow`` exports it.

Why not TensorFlow's Python half: measured side by side on one machine, against TensorFlow 1's loader and
``tf.saved_model.load``: ready to load a model in an eighth of the time; 58 MB of private memory then, not 206; with a
frozen ResNet50 after the first call 1.3 GB, not 1.5 and 2.0; half_plus_two, the request's and the answer's messages
included, in 0.7 of the time of either's bare call. And a SavedModel is loaded by the very function that TensorFlow
Serving uses, so what loads and how it fails are the same.

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
"""Bytes that TensorFlow parses in less time than it takes to let another Python thread run meanwhile, and come back."""
TSTRING_SIZE: Final = 24
"""Bytes of one ``TF_TString``: the elements of a string tensor."""


class TensorFlowError(Exception):
    """TensorFlow's own word on what went wrong. Its text may quote an input: it goes into no log and to no sender.

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
    """``TF_Output`` (and ``TF_Input``): one output of an operation of the graph."""

    _fields_ = (("operation", c_void_p), ("index", c_int))


_BUFFER = POINTER(Buffer)
_ENDPOINTS = POINTER(Endpoint)
_HANDLES = POINTER(c_void_p)

_FUNCTIONS: Final[tuple[tuple[str, Any, tuple[Any, ...], bool], ...]] = (
    # name, result, arguments, whether it can take long (then other Python threads run meanwhile)
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
        path: The shared library.

    Raises:
        UnavailableError: `server.tensorflow-library`: It cannot be loaded, or lacks a function.
    """

    def __init__(self, path: str) -> None:
        try:
            slow, quick = ctypes.CDLL(path), ctypes.PyDLL(path)
            for name, result, arguments, long in _FUNCTIONS:
                function = getattr(slow if long else quick, name)
                function.restype, function.argtypes = result, arguments
                setattr(self, name, function)
            self._parse_briefly = quick.TF_TensorFromProto
            self._parse_briefly.restype, self._parse_briefly.argtypes = None, self.TF_TensorFromProto.argtypes
        except (OSError, AttributeError) as error:
            raise ServingCode.SERVER_TENSORFLOW_LIBRARY.error(
                f"TensorFlow's library {path} cannot be used: {error}.",
                hint=f"Install tensorflow {SPEC_VERSION}: `make setup` in a checkout of sealserve does.",
            ) from error

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)  # for type checkers: what __init__ sets has no declared type

    def status(self) -> "_Lent":
        """Lend a ``TF_Status`` to one call: a block that raises TensorFlowError where the call failed."""
        return _Lent(self)

    def parse_tensor(self, proto: bytes, tensor: int | None) -> None:
        """Replace ``tensor`` by the one that a serialised TensorProto describes.

        Raises:
            TensorFlowError: Its shape and its values do not fit together.
        """
        parse = self.TF_TensorFromProto if len(proto) > _BRIEF else self._parse_briefly
        with self.status() as status:
            parse(Buffer.over(proto), tensor, status)

    @property
    def version(self) -> str:
        """TensorFlow's version."""
        return str(self.TF_Version().decode())


class _Lent:
    """A ``TF_Status`` for one call: a class, since a generator's block takes three times as long.

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
    """Return the library, loaded once.

    TensorFlow's own log is turned off first: its warnings quote input values (seen in 2.21: "Local rendezvous is
    aborting with status: ..."), and an enclave's standard error is the host's to read. Every error comes back as a
    status. It is told to look for no GPU.

    Raises:
        TensorFlowMissingError: TensorFlow is not installed.
        UnavailableError: `server.tensorflow-library`: Its library cannot be used.
    """
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    path = str(tensorflow_folder() / _LIBRARY)
    with _quiet():
        return Library(path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Drop what the library writes to standard error while it is loaded, where no setting of its own reaches."""
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
