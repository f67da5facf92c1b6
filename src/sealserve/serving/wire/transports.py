"""Choose the fast transport for versions of grpcio that it was tested with, else the one on the public API."""

import functools
import logging
from typing import Final

import grpc

from sealserve.serving.wire.transport import Transport

logger = logging.getLogger(__name__)

TESTED: Final = frozenset({"1.85"})
"""Minor versions of grpcio with which all tests of the fast transport pass. To add one, raise grpcio in
``requirements/``, add the version here, and run `make test`."""


@functools.cache
def choose() -> type[Transport]:
    """Return the transport for the installed grpcio, and log a warning if that is not the fast one."""
    version = grpc.__version__
    if ".".join(version.split(".")[:2]) in TESTED:
        from sealserve.serving.wire.completion_queue import QueueTransport  # noqa: PLC0415  # private API: only here

        return QueueTransport
    from sealserve.serving.wire.public_server import PublicTransport  # noqa: PLC0415  # only where it is needed

    logger.warning(
        "grpcio %s is not a version that the fast gRPC transport was tested with (%s): serving over grpc.server, with"
        " less throughput and a thread for each open call",
        version,
        ", ".join(f"{minor}.x" for minor in sorted(TESTED)),
    )
    return PublicTransport
