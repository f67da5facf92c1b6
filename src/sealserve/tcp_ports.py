"""The TCP ports that a deployment uses unless its settings say otherwise."""

from typing import Final

SERVICE_PORT: Final = 8500
"""gRPC: of NGINX, and of the model server behind it. It is TensorFlow Serving's default."""

REST_PORT: Final = 8501
"""REST over TLS: of NGINX, and of the model server behind it. TensorFlow Serving's guides use it."""

BROKER_PORT: Final = 4433
"""The secret provisioning service, as in Gramine's examples."""

SIMULATED_PCS_PORT: Final = 8081
"""The simulated processor vendor's service; Intel's PCCS listens on 8081 too."""

LARGEST_PORT: Final = 65535
"""The largest port that there can be."""


def rest_port_beside(port: int) -> int:
    """Return the REST port of a model server whose gRPC port is ``port``: the next one, as 8501 is to 8500.

    So each replica of one machine has a REST port of its own, and no second port has to be chosen and measured.
    """
    return port + 1 if port < LARGEST_PORT else port - 1
