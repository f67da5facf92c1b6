"""Selects the fast transport for tested versions of grpcio, and else the transport on the public API."""

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
    """Return the transport for the installed grpcio; log a warning if it is not the fast one."""
    version = grpc.__version__
    if ".".join(version.split(".")[:2]) in TESTED:
        from sealserve.serving.wire.completion_queue import QueueTransport  # noqa: PLC0415  # private API: only here

        return QueueTransport
    from sealserve.serving.wire.public_server import PublicTransport  # noqa: PLC0415  # only where it is needed

    logger.warning(
        "the fast gRPC transport was not tested with grpcio %s (tested: %s): using grpc.server, with less throughput"
        " and a thread for each open call",
        version,
        ", ".join(f"{minor}.x" for minor in sorted(TESTED)),
    )
    return PublicTransport
