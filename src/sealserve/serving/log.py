"""The server's log: plain lines on standard error, in UTC, without any content of requests.

The host can read an enclave's standard error. So a traceback contains the places and the types of exceptions, and omits
the exceptions' texts, which may quote an input.
"""

import logging
import os
import sys
import traceback
from types import TracebackType

from sealserve.errors import InputError, SealserveError
from sealserve.log_line import LogFormatter

_ExceptionInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class DiscreetFormatter(LogFormatter):
    """A formatter whose tracebacks omit the exceptions' texts."""

    def formatException(self, ei: _ExceptionInfo) -> str:  # noqa: N802  # logging's name
        """Return the frames, types and codes of an exception and of its causes."""
        error = ei[1]
        parts: list[str] = []
        while error is not None:
            frames = "".join(traceback.format_tb(error.__traceback__)).rstrip("\n")
            code = f": {error.code}" if isinstance(error, SealserveError) else ""
            parts.append(f"{frames}\n{type(error).__module__}.{type(error).__qualname__}{code}")
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        return "\ncaused by:\n".join(parts)


class DescribesModelError(InputError):
    """An error whose message may name parts of a model: signatures, inputs, operations, paths.

    The message goes to the model's users and operators. `log_message` goes to the log, which the host of an enclave can
    read.

    Args:
        message: The complete message.
        hint: What to do next.
        log_message: The message without parts of the model; None if the log may contain the complete message.
    """

    def __init__(self, message: str, *, hint: str | None = None, log_message: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.log_message = message if log_message is None else log_message


def text_for_log(error: SealserveError) -> str:
    """Return the text of an error that may be written to the log."""
    return error.log_message if isinstance(error, DescribesModelError) else error.message


def detach() -> None:
    """Reserve standard error for the log, and discard what native libraries write to it or to standard output.

    The host can read an enclave's standard output and standard error. ``tf.print`` writes inputs there. RE2 quotes an
    invalid pattern, and a failed check in C++ may print inputs too. No setting of these libraries disables all of that.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    log = os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    sys.stderr = log
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(log)
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def configure() -> None:
    """Send this process's log to standard error, and silence gRPC's own log, which quotes data of peers.

    Call it before gRPC is imported, because gRPC reads its settings during the import.
    Source: grpc/grpc, ``doc/environment_variables.md``.
    """
    os.environ["GRPC_VERBOSITY"] = "NONE"
    os.environ.pop("GRPC_TRACE", None)
    handler = logging.StreamHandler()
    handler.setFormatter(DiscreetFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
