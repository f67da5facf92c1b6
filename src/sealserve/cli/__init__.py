"""The command line: one module for each verb, loaded when it is asked for."""

import os
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line, and turn what it raises into one message and an exit status.

    Exit status: 0 done; 1 an internal error; 2 bad usage or input; 3 something did not verify; 4 this machine or a
    peer is not as needed; 130 interrupted.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its core would print each failed handshake
    try:
        from sealserve.cli.application import run  # noqa: PLC0415  # the package itself stays light
        from sealserve.cli.deferred_imports import deferred  # noqa: PLC0415

        deferred.enable()
        status = run(sys.argv[1:])
    except KeyboardInterrupt:  # before the command line could take it
        status = 130
    sys.exit(status)
