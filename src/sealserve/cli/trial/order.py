"""What the command line asks of the process that runs a model's signatures."""

from dataclasses import dataclass
from typing import Final

NAME: Final = "model"
"""The servable's name in that process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be run. It travels as JSON.

    Args:
        folder: The SavedModel.
        tags: The tags of the graph to load.
        requests: Serialised PredictRequests in base64, by signature.
    """

    folder: str
    tags: list[str]
    requests: dict[str, str]
