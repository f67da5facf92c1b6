"""The TCP ports that a deployment uses unless its settings say otherwise."""

from typing import Final

SERVICE_PORT: Final = 8500
"""gRPC: of NGINX, and of the model server behind it. It is TensorFlow Serving's default."""

BROKER_PORT: Final = 4433
"""The secret provisioning service, as in Gramine's examples."""

SIMULATED_PCS_PORT: Final = 8081
"""The simulated processor vendor's service; Intel's PCCS listens on 8081 too."""

LARGEST_PORT: Final = 65535
"""The largest port that there can be."""
