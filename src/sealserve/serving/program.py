"""The program ``sealserve-model-server``, from its command line to its exit status."""

import asyncio
import importlib.metadata
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sealserve import __version__
from sealserve.errors import SealserveError
from sealserve.serving import log
from sealserve.serving.attested import AttestedIdentity, ModelCheck
from sealserve.serving.command_line import flags, options
from sealserve.serving.spans import NO_STAGES, Stages
from sealserve.serving_flags import FLAGS

if TYPE_CHECKING:
    from sealserve.serving.tracing import Tracing

logger = logging.getLogger(__name__)


def main(
    arguments: Sequence[str] | None = None,
    *,
    attest: Callable[[Stages], AttestedIdentity] | None = None,
    check_model: ModelCheck | None = None,
) -> int:
    """Run the server until it is stopped, and return the exit status.

    Args:
        arguments: The command line without the program's name; this process's by default.
        attest: Returns the identity of an attested server, before any file of the release is opened. It records its
            stages as spans. None for a server whose TLS key is in the file of ``--ssl_config_file``.
        check_model: Checks each model before it is loaded, or None.
    """
    try:
        # Parse the command line before anything else is loaded, so that a wrong flag is reported within milliseconds.
        chosen = options.parse(sys.argv[1:] if arguments is None else arguments, attested=attest is not None)
        if isinstance(chosen, options.Question):
            sys.stdout.write(_versions() if chosen.version else flags.describe(FLAGS))
            return 0
        # Set up the log before gRPC is imported, because gRPC reads the settings of its own log during the import.
        log.configure()
        # Prepare the traces before the attestation, which is their first stage.
        tracing = None if chosen.traces is None else _tracing(chosen.traces)
        stages = NO_STAGES if tracing is None else tracing.stages
        return serve(chosen, None if attest is None else attest(stages), check_model, tracing)
    except SealserveError as error:
        return _report(error)
    except Exception:
        logger.exception("the server ended with an unexpected error")
        return _report(SealserveError("The server ended with an unexpected error. See the log for details."))


def serve(
    chosen: options.ServerOptions,
    identity: AttestedIdentity | None = None,
    check_model: ModelCheck | None = None,
    tracing: "Tracing | None" = None,
) -> int:
    """Serve until the process is stopped, and return the exit status.

    Args:
        chosen: The options.
        identity: The identity of an attested server, or None.
        check_model: Checks each model before it is loaded, or None.
        tracing: The traces, or None if they are off. They are closed at the end.

    Raises:
        SealserveError: The server cannot start.
    """
    from sealserve.serving.server import Server  # noqa: PLC0415  # --help and a wrong flag need no gRPC

    async def run() -> bool:
        return await Server(chosen, identity, check_model, tracing).run()

    # Discard what native code writes to standard output: models can print inputs, and the host can read the output.
    log.detach()
    try:
        ended = asyncio.run(run())
    finally:
        if tracing is not None:
            tracing.close()
    if not ended:
        # Requests are still running: exit without waiting for their threads.
        logging.shutdown()
        os._exit(0)  # a thread inside TensorFlow would keep the process alive
    return 0


def _tracing(chosen: options.TracesOptions) -> "Tracing":
    from sealserve.serving.tracing import Tracing  # noqa: PLC0415  # a server without traces does not need it

    return Tracing(chosen)


def _versions() -> str:
    from sealserve.serving.runtime.libtensorflow import library  # noqa: PLC0415  # only --version needs it here

    return (
        f"sealserve-model-server: {__version__}\n"
        f"TensorFlow Serving API: {importlib.metadata.version('tensorflow-serving-api')}\n"
        f"TensorFlow Library: {library().version}\n"
    )


def _report(error: SealserveError) -> int:
    lines = [f"error[{error.code}]: {log.text_for_log(error)}", *([f"  {error.hint}"] if error.hint else [])]
    sys.stderr.write("\n".join(lines) + "\n")
    return error.exit_status
