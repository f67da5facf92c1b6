"""The server's log: plain lines on standard error, UTC, and no word of a request.

An enclave's standard error is the host's to read. So a traceback says where and which type of exception, and leaves out
the exception's text, which may quote an input.
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
    """A formatter whose tracebacks carry no exception's text."""

    def formatException(self, ei: _ExceptionInfo) -> str:  # noqa: N802  # logging's name
        """Return the frames, the types and the codes of an exception and of those that led to it."""
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

    The message goes to the model's users and operators. `log_message` goes to the log, which the host of an enclave
    reads.

    Args:
        message: The whole message.
        hint: What to do next.
        log_message: The message without the parts of the model; None where the log may hold the whole message.
    """

    def __init__(self, message: str, *, hint: str | None = None, log_message: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.log_message = message if log_message is None else log_message


def text_for_log(error: SealserveError) -> str:
    """Return the text that the log may hold of an error."""
    return error.log_message if isinstance(error, DescribesModelError) else error.message


def detach() -> None:
    """Keep standard error for the log, and drop what native libraries write to it or to standard output.

    An enclave's standard output and standard error are the host's to read. ``tf.print`` writes inputs there, RE2 quotes
    them when it refuses a pattern, and a failed check in C++ may do so: no setting of theirs turns all of that off.
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
    """Send this process's log to standard error, and silence gRPC's own, which quotes what peers send.

    To be called before gRPC is imported: it reads its settings then.
    Source: grpc/grpc, ``doc/environment_variables.md``.
    """
    os.environ["GRPC_VERBOSITY"] = "NONE"
    os.environ.pop("GRPC_TRACE", None)
    handler = logging.StreamHandler()
    handler.setFormatter(DiscreetFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
