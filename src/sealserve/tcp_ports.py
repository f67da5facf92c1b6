"""The default TCP ports of a deployment."""

from typing import Final

SERVICE_PORT: Final = 8500
"""The gRPC port of NGINX and of the model server behind it. This is TensorFlow Serving's default."""

REST_PORT: Final = 8501
"""The REST port (TLS) of NGINX and of the model server behind it. TensorFlow Serving's guides use this port."""

BROKER_PORT: Final = 4433
"""The port of the secret provisioning service, as in Gramine's examples."""

SIMULATED_PCS_PORT: Final = 8081
"""The port of the simulated processor vendor's service. Intel's PCCS also listens on 8081."""

LARGEST_PORT: Final = 65535
"""The largest valid port number."""


def rest_port_beside(port: int) -> int:
    """Return the REST port of a model server whose gRPC port is ``port``: the next port, as 8501 follows 8500.

    Therefore each replica of a machine has its own REST port, and no second port must be chosen and measured.
    """
    return port + 1 if port < LARGEST_PORT else port - 1
