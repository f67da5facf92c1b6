"""Finds the SavedModel or frozen graph that a path refers to, and suggests a fix for other paths."""

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from sealserve.errors import SealserveError
from sealserve.model.codes import ModelCode
from sealserve.model.saved_model import CHUNKED_FILE, SAVED_MODEL_FILE, TEXT_FILE
from sealserve.terms import LARGEST_VERSION

_SAVED_MODEL_FILES: Final = (SAVED_MODEL_FILE, TEXT_FILE, CHUNKED_FILE)
_FROZEN_GRAPH: Final = ".pb"
SIGNATURE_FILE: Final = "model.sig"
"""The default name of a model's OpenSSF Model Signing signature. The file is not a part of the model."""
_MOST_ENTRIES: Final = 1000
"""The maximum number of a folder's entries that are read: the folder may be anything, such as a home directory."""

_KERAS: Final = "a Keras model"
_NOT_TENSORFLOW: Final = "Convert it to a TensorFlow SavedModel first."
_OTHER_FORMATS: Final[Mapping[str, tuple[str, str]]] = {
    ".keras": (_KERAS, ""),
    ".h5": (_KERAS, ""),
    ".hdf5": (_KERAS, ""),
    ".tflite": ("a TensorFlow Lite model", "Use the SavedModel that it was converted from."),
    ".onnx": ("an ONNX model", _NOT_TENSORFLOW),
    ".pt": ("a PyTorch model", _NOT_TENSORFLOW),
    ".pth": ("a PyTorch model", _NOT_TENSORFLOW),
    ".safetensors": ("a file of weights", _NOT_TENSORFLOW),
    ".pbtxt": ("a graph as text", "Write the frozen graph in binary form (.pb)."),
}
"""The name of each other format, and the hint for it. For Keras, see `_other_format`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A model that can be imported.

    Args:
        path: The SavedModel's folder, or the file of the frozen graph.
        version: The version in the name of the SavedModel's folder, as in ``resnet50/1``; None if the name has none.
        other_versions: The other versions in the same folder.
    """

    path: Path
    version: int | None = None
    other_versions: Sequence[int] = ()


def find_source(path: Path) -> Source:
    """Return the model that a path refers to.

    The path can be the SavedModel or frozen graph itself, or a ``saved_model.pb`` in a SavedModel. In a folder of
    versions in TensorFlow Serving's layout (``resnet50/1``, ``resnet50/2``), the newest version is used.

    Raises:
        InputError: `model.missing`: The path does not exist; the hint names similar models.
        InputError: `model.not-a-saved-model`: The folder does not contain a SavedModel.
        InputError: `model.not-a-graph`: The file has a format other than a frozen graph.
    """
    if path.name in _SAVED_MODEL_FILES and path.is_file():
        path = path.parent
    if not path.is_dir():
        check_source(path)
        return Source(path=path)
    if _is_saved_model(path):
        number = _version(path.name)
        return Source(path=path, version=number)
    if versions := sorted(_versions(path)):
        newest, folder = versions[-1]
        return Source(path=folder, version=newest, other_versions=[number for number, _ in versions[:-1]])
    raise ModelCode.NOT_A_SAVED_MODEL.error(
        f"{path} is not a SavedModel: it does not contain {SAVED_MODEL_FILE}.",
        hint=_nearest_hint(path / SAVED_MODEL_FILE),
    )


def check_source(path: Path) -> None:
    """Check that a path can be a model, before the model is read.

    Raises:
        InputError: `model.missing`: The path does not exist; the hint names similar models.
        InputError: `model.not-a-graph`: The file has a format other than a frozen graph.
    """
    if not path.exists():
        raise ModelCode.MISSING.error(f"The model {path} does not exist.", hint=_nearest_hint(path))
    other = _OTHER_FORMATS.get(path.suffix.lower())
    if other is not None and path.is_file():
        raise _other_format(path, *other)


def candidates(folder: Path) -> list[Path]:
    """Return the models directly in a folder, sorted by name. Empty if the folder does not exist."""
    return sorted(found for found in _entries(folder) if _is_model(found))


def _other_format(path: Path, what: str, hint: str) -> SealserveError:
    if what == _KERAS:
        export = f"keras.models.load_model({str(path)!r}).export({str(path.with_suffix(''))!r})"
        hint = f"Export it as a SavedModel in Python, and use the exported folder: {export}"
    return ModelCode.NOT_A_GRAPH.error(f"{path} is {what}: expected a SavedModel folder or a frozen graph.", hint=hint)


def _nearest_hint(path: Path) -> str:
    """Return the hint for a path without a model: the models nearby with the most similar names."""
    there = candidates(path.parent)
    by_name = {found.name: found for found in reversed(there)} | {found.stem: found for found in reversed(there)}
    close = difflib.get_close_matches(path.name, by_name, n=3, cutoff=0.5)
    near = list(dict.fromkeys(by_name[name] for name in close))
    if near:
        return f"Did you mean {' or '.join(map(str, near))}?"
    if there:
        return f"Choose a model in {path.parent}: {', '.join(found.name for found in there[:8])}."
    return "Give a SavedModel folder or a frozen graph (.pb). Create an example with `sealserve model make-example`."


def _is_model(path: Path) -> bool:
    if path.is_dir():
        return _is_saved_model(path) or any(True for _ in _versions(path))
    return path.suffix == _FROZEN_GRAPH and path.name not in _SAVED_MODEL_FILES and path.is_file()


def _is_saved_model(folder: Path) -> bool:
    return any(os.path.lexists(folder / name) for name in _SAVED_MODEL_FILES)


def _versions(folder: Path) -> Iterator[tuple[int, Path]]:
    """Yield the versions of a model in a folder with TensorFlow Serving's layout, with their SavedModels."""
    for entry in _entries(folder):
        number = _version(entry.name)
        if number is not None and _is_saved_model(entry):
            yield number, entry


def _version(name: str) -> int | None:
    if not (name.isascii() and name.isdecimal()) or len(name) > len(str(LARGEST_VERSION)):
        return None
    return int(name) if int(name) <= LARGEST_VERSION else None


def _entries(folder: Path) -> Iterator[Path]:
    """Yield the entries of a folder, except hidden entries. A folder that cannot be read counts as empty."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in islice(entries, _MOST_ENTRIES)]
    except OSError:
        return
    yield from (folder / name for name in names if not name.startswith("."))
