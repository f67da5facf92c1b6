"""The command line: one module for each verb, imported only when the verb is used."""

import os
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line, and convert each exception to one message and an exit status.

    Exit status: 0 success; 1 internal error; 2 invalid usage or input; 3 a verification failed; 4 this machine or a
    peer does not have what is needed; 130 interrupted.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # otherwise gRPC's core prints each failed handshake
    try:
        from sealserve.cli.application import run  # noqa: PLC0415  # the package itself stays light
        from sealserve.cli.deferred_imports import deferred  # noqa: PLC0415

        deferred.enable()
        status = run(sys.argv[1:])
    except KeyboardInterrupt:  # Ctrl-C before `run` handles it
        status = 130
    sys.exit(status)
