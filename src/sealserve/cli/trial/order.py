"""The order from the command line to the process that runs a model's signatures."""

from dataclasses import dataclass
from typing import Final

NAME: Final = "model"
"""Name of the servable in the process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """The model and the requests to run. The process receives it as JSON.

    Args:
        folder: The SavedModel.
        tags: Tags of the graph to load.
        requests: Serialized PredictRequests in base64, by signature.
    """

    folder: str
    tags: list[str]
    requests: dict[str, str]
