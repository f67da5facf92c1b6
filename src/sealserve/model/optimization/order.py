"""The order to the process that optimizes a model, and the reasons why it fails."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to do. The process receives it as JSON.

    Args:
        folder: The original SavedModel.
        tags: The tags of its graph.
        destination: A folder with the other files of the result. The process writes ``saved_model.pb``.
        precision: The precision of the result.
        seed: The seed of generated inputs.
        rows: The number of rows of generated inputs.
        batch: The maximum number of rows of one run.
        numbers: A file (``.npz``) with the given numeric inputs by name, or None.
        strings: Given text inputs by name: the shape, and the values in base64.
    """

    folder: str
    tags: list[str]
    destination: str
    precision: str
    seed: int
    rows: int
    batch: int
    numbers: str | None
    strings: dict[str, dict[str, Any]]


class Failure(StrEnum):
    """Why the process failed."""

    UNCHANGED = "unchanged"
    NOT_OPTIMIZABLE = "not-optimizable"
    UNPROVEN = "unproven"
    INPUTS = "inputs"
    """The original model rejects the given inputs."""
    NO_ROOM = "no-room"
    """The disk is full. The message has the operating system's ``errno``."""


class FailedError(Exception):
    """The process failed for a known reason. The text is the end of a sentence."""

    def __init__(self, reason: Failure, text: str) -> None:
        super().__init__(text)
        self.reason = reason
