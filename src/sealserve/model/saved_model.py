"""Description of SavedModels, and checks whether a model server could serve them. TensorFlow is not required.

Source: TensorFlow's ``saved_model.proto`` and ``meta_graph.proto`` (the file) and ``saved_model/constants.h`` (the
folder).
"""

import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError

from sealserve.model import saved_model_pb2 as pb
from sealserve.model.codes import ModelCode
from sealserve.model.unread_fields import unread_field
from sealserve.regular_file import InputFileMissingError, read_regular
from sealserve.serving_interface import DEFAULT_SIGNATURE, INTERNAL_SIGNATURES

SAVED_MODEL_FILE = "saved_model.pb"
TEXT_FILE = "saved_model.pbtxt"
CHUNKED_FILE = "saved_model.cpb"
LARGEST_MESSAGE = 2**31  # bytes; protobuf's limit
SERVE_TAG = "serve"
SERVE_TAGS = (SERVE_TAG,)
VARIABLE_OPERATIONS = frozenset({"VarHandleOp", "VariableV2", "Variable"})
_INDEX = Path("variables", "variables.index")
_SHARD = re.compile(r"variables\.data-\d{5}-of-(\d{5})")
_DTYPES: dict[int, str] = {pb.DT_FLOAT: "float32", pb.DT_DOUBLE: "float64", pb.DT_HALF: "float16"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """An input or output of a signature.

    Args:
        name: Its name for clients.
        dtype: Its type, by TensorFlow's name: ``float32``, ``string``...
        shape: Its dimensions, with None for any size. None instead of a tuple means any number of dimensions.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedSignature:
    """A function that clients can call.

    Args:
        name: Its name for clients.
        method: TensorFlow Serving's method, such as ``tensorflow/serving/predict``.
        inputs: Sorted by name.
        outputs: Sorted by name.
    """

    name: str
    method: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MetaGraph:
    """A graph of a SavedModel.

    Args:
        tags: The set of its tags, sorted.
        tensorflow_version: The version of TensorFlow that wrote it.
        signatures: Its signatures, sorted by name.
        operations: The names of the operations in it and in its functions, sorted.
        restores: Whether loading restores variables from the ``variables`` folder.
    """

    tags: tuple[str, ...]
    tensorflow_version: str
    signatures: tuple[SavedSignature, ...]
    operations: tuple[str, ...]
    restores: bool

    @property
    def has_variables(self) -> bool:
        """Whether the graph needs the ``variables`` folder.

        A graph without an operation that restores them can have variables, which its initializer sets.
        """
        return self.restores and not VARIABLE_OPERATIONS.isdisjoint(self.operations)


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedModelInfo:
    """A description of a SavedModel.

    Args:
        folder: The folder that holds ``saved_model.pb``.
        files: The number of its files.
        size: The total size of its files in bytes.
        graphs: Its graphs. Most SavedModels have one.
        tags: The tags of the graph that is served, sorted.
    """

    folder: Path
    files: int
    size: int
    graphs: tuple[MetaGraph, ...]
    tags: tuple[str, ...] = SERVE_TAGS

    @property
    def serving_graph(self) -> MetaGraph:
        """The graph that a model server loads. For the choice and the errors, see `serving_meta_graph`."""
        return self.graphs[_index_of_tags(self.folder, [graph.tags for graph in self.graphs], self.tags)]


def read_saved_model(folder: Path) -> pb.SavedModel:
    """Read ``saved_model.pb`` of the SavedModel ``folder``.

    Raises:
        InputError: `model.missing`: The folder does not exist.
        InputError: `model.not-a-saved-model`: The folder has no readable ``saved_model.pb``.
        InputError: `model.ambiguous`: Protobuf libraries differ in what they read of the file.
    """
    if not folder.is_dir():
        raise ModelCode.MISSING.error(
            f"The folder {folder} does not exist.", hint="Give the folder that contains saved_model.pb."
        )
    path = folder / SAVED_MODEL_FILE
    message = pb.SavedModel()
    if form_of(folder) == TEXT_FILE:
        raise ModelCode.NOT_A_SAVED_MODEL.error(
            f"{folder} has a SavedModel in text form: expected {SAVED_MODEL_FILE}, got {TEXT_FILE}.",
            hint="Set the folder as model.path and run `sealserve model convert`, which writes the binary form.",
        )
    try:
        message.ParseFromString(read_regular(path, limit=LARGEST_MESSAGE))
    except InputFileMissingError as error:
        hint = _version_hint(folder)
        raise ModelCode.NOT_A_SAVED_MODEL.error(
            f"{folder} is not a SavedModel: it does not contain {SAVED_MODEL_FILE}.", hint=hint
        ) from error
    except DecodeError as error:
        raise ModelCode.NOT_A_SAVED_MODEL.error(
            f"{path} is not a SavedModel: TensorFlow did not write it, or it is damaged.",
            hint="Export or copy the model again.",
        ) from error
    # otherwise a server could execute parts that the lint cannot see
    if field := unread_field(message):
        raise ModelCode.AMBIGUOUS.error(
            f"{path} has the field {field.partition('model.')[2]} in a form that only some protobuf libraries read.",
            hint="Export the model again with TensorFlow, which never writes this form.",
        )
    return message


def form_of(folder: Path) -> str | None:
    """Return the name of the file that holds the SavedModel in ``folder``, or None if it does not exist.

    Raises:
        InputError: `model.ambiguous`: Several such files exist. TensorFlow would read one and ignore the others.
        InputError: `model.not-a-saved-model`: The file has the chunked form, which requires a separate library.
    """
    forms = [name for name in (SAVED_MODEL_FILE, TEXT_FILE, CHUNKED_FILE) if os.path.lexists(folder / name)]
    if len(forms) > 1:
        raise ModelCode.AMBIGUOUS.error(
            f"{folder} is ambiguous: it contains several SavedModels ({', '.join(forms)}).",
            hint="Keep only the file that belongs to the model.",
        )
    if forms == [CHUNKED_FILE]:
        raise ModelCode.NOT_A_SAVED_MODEL.error(
            f"{folder} has a SavedModel in chunked form: expected {SAVED_MODEL_FILE}, got {CHUNKED_FILE}.",
            hint="Export the model without tf.saved_model.SaveOptions(experimental_image_format=True).",
        )
    return forms[0] if forms else None


def serving_meta_graph(folder: Path, message: pb.SavedModel, tags: Collection[str] = SERVE_TAGS) -> pb.MetaGraphDef:
    """Return the graph of a SavedModel that a model server loads: the graph whose set of tags is ``tags``.

    Source: ``cc/saved_model/reader.cc`` of TensorFlow 2.21. TensorFlow uses the first of several such graphs. Here,
    several graphs are an error.

    Raises:
        InputError: `model.no-serve-tag`: No graph has these tags.
        InputError: `model.ambiguous`: Several graphs have these tags.
    """
    return message.meta_graphs[
        _index_of_tags(folder, [tuple(graph.meta_info_def.tags) for graph in message.meta_graphs], tags)
    ]


def describe(folder: Path, *, tags: Collection[str] = SERVE_TAGS) -> SavedModelInfo:
    """Describe the SavedModel ``folder``.

    Args:
        folder: The SavedModel.
        tags: The tags of the graph that is served.

    Raises:
        InputError: `model.missing`: The folder does not exist.
        InputError: `model.not-a-saved-model`: The folder has no readable ``saved_model.pb``.
        InputError: `model.ambiguous`: Two readers could see different models.
        InputError: `model.unusable-file`: The folder contains a link to a folder, a socket, or the like.
    """
    message = read_saved_model(folder)
    files = plain_files(folder)
    return SavedModelInfo(
        folder=folder,
        files=len(files),
        size=sum(file.stat().st_size for file in files),
        graphs=tuple(map(_meta_graph, message.meta_graphs)),
        tags=tuple(sorted(set(tags))),
    )


def plain_files(folder: Path) -> list[Path]:
    """Return all files below ``folder``, sorted. A link to a file counts as a file, because its content is copied.

    Raises:
        InputError: `model.unusable-file`: The folder contains a link to a folder, a socket, or the like.
    """
    files = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            files.append(path)
        elif path.is_symlink() or not path.is_dir():
            raise ModelCode.UNUSABLE_FILE.error(
                f"{path} cannot be used in a model: it is not a regular file or folder.",
                hint="Replace it by a copy of the file or folder.",
            )
    return files


def check_servable(folder: Path, *, tags: Collection[str] = SERVE_TAGS) -> SavedModelInfo:
    """Check that a model server could load and serve the SavedModel ``folder``, and describe it.

    Args:
        folder: The SavedModel.
        tags: The tags of the graph that is served.

    Raises:
        InputError: `model.missing`: The folder does not exist.
        InputError: `model.not-a-saved-model`: The folder has no readable ``saved_model.pb``.
        InputError: `model.ambiguous`: Two readers could see different models.
        InputError: `model.unusable-file`: The folder contains a link to a folder, a socket, or the like.
        InputError: `model.no-serve-tag`: No graph has these tags.
        InputError: `model.no-signature`: The graph has no signature with outputs.
        InputError: `model.variables-missing`: Files with the values of variables are missing. TensorFlow would load an
            uninitialized model and report success.
    """
    info = describe(folder, tags=tags)
    graph = info.serving_graph
    if not any(signature.outputs for signature in graph.signatures):
        raise ModelCode.NO_SIGNATURE.error(
            f"{folder} does not have a signature, so the inputs and outputs of the model are unknown.",
            hint=f"Export the model with a signature named {DEFAULT_SIGNATURE!r}.",
        )
    if graph.has_variables and (missing := missing_variables(folder)):
        raise ModelCode.VARIABLES_MISSING.error(
            f"{folder} is incomplete: the graph has variables, but {missing} is missing.",
            hint="Copy the whole folder of the SavedModel.",
        )
    return info


def _meta_graph(message: pb.MetaGraphDef) -> MetaGraph:
    functions = (function.node_def for function in message.graph_def.library.function)
    operations = {node.op for nodes in (message.graph_def.node, *functions) for node in nodes}
    signatures = (
        SavedSignature(
            name=name, method=found.method_name, inputs=_tensors(found.inputs), outputs=_tensors(found.outputs)
        )
        for name, found in sorted(message.signature_def.items())
        if name not in INTERNAL_SIGNATURES
    )
    return MetaGraph(
        tags=tuple(sorted(set(message.meta_info_def.tags))),
        tensorflow_version=message.meta_info_def.tensorflow_version,
        signatures=tuple(signatures),
        operations=tuple(sorted(operations)),
        restores=bool(message.saver_def.restore_op_name),
    )


def _tensors(infos: Mapping[str, pb.TensorInfo]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(name=name, dtype=dtype_name(info.dtype), shape=_shape(info.tensor_shape))
        for name, info in sorted(infos.items())
    )


def dtype_name(number: int) -> str:
    """Return TensorFlow's name of a ``DataType``, or its number if the type is unknown here."""
    known = pb.DataType.values()
    return _DTYPES.get(number) or (
        pb.DataType.Name(number).removeprefix("DT_").lower() if number in known else f"dtype {number}"
    )


def _shape(message: pb.TensorShapeProto) -> tuple[int | None, ...] | None:
    if message.unknown_rank:
        return None
    return tuple(None if dimension.size < 0 else dimension.size for dimension in message.dim)


def missing_variables(folder: Path) -> str:
    """Return the first missing file with the variables' values, or an empty string."""
    if not (folder / _INDEX).is_file():
        return str(_INDEX)
    shards = {path.name for path in (folder / _INDEX).parent.iterdir()}
    count = max((int(found[1]) for found in map(_SHARD.fullmatch, shards) if found), default=1)
    names: Iterable[str] = (f"variables.data-{number:05d}-of-{count:05d}" for number in range(count))
    return next((f"variables/{name}" for name in names if name not in shards), "")


def _index_of_tags(folder: Path, graphs: Sequence[Collection[str]], tags: Collection[str]) -> int:
    """Return the index of the only graph whose set of tags is ``tags``."""
    wanted = ", ".join(sorted(set(tags)))
    fitting = [index for index, found in enumerate(graphs) if set(found) == set(tags)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise ModelCode.AMBIGUOUS.error(
            f"{folder} is ambiguous: {len(fitting)} graphs have the tags {wanted}, and their order would decide which "
            "is served.",
            hint="Export the model again with one graph for these tags.",
        )
    found = "; ".join(sorted(", ".join(sorted(set(found))) or "a graph without tags" for found in graphs))
    raise ModelCode.NO_SERVE_TAG.error(
        f"{folder} does not have a graph with the tags {wanted}: it has {found or 'no graph at all'}.",
        hint="Set the tags of one of its graphs as the model's tags in sealserve.toml."
        if found.strip()
        else "Export the model with tf.saved_model.save or model.export.",
    )


def _version_hint(folder: Path) -> str | None:
    versions = sorted(path.parent.name for path in folder.glob(f"*/{SAVED_MODEL_FILE}"))
    return f"Did you mean {folder / versions[-1]}?" if versions else None
