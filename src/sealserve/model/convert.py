"""Import of models: a frozen graph is converted into a SavedModel, a SavedModel is checked and copied.

The result has one graph with the single tag ``serve``, which servers load by default.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from sealserve import names
from sealserve.atomic_file import NO_ROOM, OutputExistsError
from sealserve.model import saved_model_pb2 as pb
from sealserve.model.codes import ModelCode
from sealserve.model.frozen_graph import check_frozen, read_graph
from sealserve.model.lifting import Lifted, check_written, import_lifted, initialise, lift
from sealserve.model.saved_model import (
    SAVED_MODEL_FILE,
    SERVE_TAG,
    SERVE_TAGS,
    TEXT_FILE,
    SavedModelInfo,
    check_servable,
    form_of,
    plain_files,
    read_saved_model,
    serving_meta_graph,
)
from sealserve.model.source import SIGNATURE_FILE, check_source
from sealserve.model.tensorflow_import import import_tensorflow
from sealserve.serving_interface import DEFAULT_SIGNATURE
from sealserve.terms import LARGEST_VERSION, ModelName
from sealserve.whole_folder import appearing, refuse_existing

_FINGERPRINT = "fingerprint.pb"
OTHER_VERSION: Final = "Set a different version of the model in sealserve.toml, or remove the folder."
"""The hint for a version of a model that already exists."""

Progress = Callable[[str], None]
"""Called at the start of each step with a short description of the step."""


class SourceKind(StrEnum):
    """The form of a model before its import."""

    FROZEN_GRAPH = "frozen-graph"
    SAVED_MODEL = "saved-model"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedModel:
    """A model that is ready to be sealed.

    Args:
        name: The servable's name.
        version: Its version.
        folder: The SavedModel, ``NAME/VERSION`` below the destination.
        source: The form of the model before its import.
        info: A description of the SavedModel.
    """

    name: ModelName
    version: int
    folder: Path
    source: SourceKind
    info: SavedModelInfo


def import_model(
    source: Path,
    destination: Path,
    *,
    name: str,
    version: int,
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
    tags: Sequence[str] = SERVE_TAGS,
    keep_frozen: bool = False,
    signature: Path | None = None,
    progress: Progress | None = None,
) -> ImportedModel:
    """Create ``destination/NAME/VERSION`` from a frozen graph or a SavedModel. The folder appears atomically.

    Args:
        source: A frozen graph (a file), or a SavedModel (a folder).
        destination: The folder of all models; created if it does not exist.
        name: The servable's name.
        version: Its version.
        inputs: Names of a frozen graph's input nodes. The signature's inputs get the same names.
        outputs: Names of a frozen graph's output nodes. The signature's outputs get the same names.
        tags: The tags of the SavedModel's graph that is served. Its other graphs are removed, and its tags are replaced
            by the single tag ``serve``.
        keep_frozen: Whether a frozen graph's large constants stay constants. By default they become variables, because
            TensorFlow holds one copy of a variable and several copies of a constant.
        signature: A signature of the model that may be in a SavedModel's folder. It is not copied. The default is
            ``model.sig`` in the folder.
        progress: Called at the start of each step.

    Raises:
        InputError: `model.invalid-name`: ``name`` or ``version`` is not valid for a servable.
        InputError: `model.missing`: ``source`` does not exist.
        OutputExistsError: This version of the model already exists.
        InputError: `model.not-a-graph`, `model.unknown-node`, `model.not-frozen`, `model.no-signature`: See
            `check_frozen`.
        InputError: `model.refused`: TensorFlow cannot load the graph.
        UnavailableError: `model.tensorflow-missing`: A frozen graph requires TensorFlow, which is not installed.
        InputError: `model.not-a-saved-model`, `model.ambiguous`, `model.unusable-file`, `model.no-serve-tag`,
            `model.variables-missing`: See `check_servable`.
        VerificationError: `model.lifting`: A variable was written with a different value than its constant.
        UnavailableError: `file.disk-full`: The disk is full.
    """
    tell = progress or (lambda _: None)
    folder = destination / _checked_name(name) / str(_checked_version(version))
    check_source(source)
    refuse_existing(folder, hint=OTHER_VERSION)
    kind = SourceKind.SAVED_MODEL if source.is_dir() else SourceKind.FROZEN_GRAPH
    if kind is SourceKind.SAVED_MODEL:
        tell("checking the SavedModel")
        form = form_of(source)
        if form != TEXT_FILE:
            check_servable(source, tags=tags)
        if folder.resolve().is_relative_to(source.resolve()):
            raise OutputExistsError(
                f"{folder} cannot be created: it is inside the source {source}.", hint="Give a different destination."
            )
        with appearing(folder) as temporary:
            tell("copying the SavedModel")
            for file in plain_files(source):
                target = temporary / file.relative_to(source)
                if target != temporary / TEXT_FILE and file not in {signature, source / SIGNATURE_FILE}:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(file, target)
            if form == TEXT_FILE:
                _write_binary_form(source / TEXT_FILE, temporary / SAVED_MODEL_FILE)
            _keep_one_graph(temporary, tags)
            check_servable(temporary)
    else:
        tell("reading the frozen graph")
        check_frozen(read_graph(source), source, inputs=inputs, outputs=outputs)
        with appearing(folder) as temporary, tensorflow_writes():
            tell("writing the SavedModel")
            _write_saved_model(source, temporary, inputs=inputs, outputs=outputs, keep_frozen=keep_frozen)
            check_servable(temporary)
    return ImportedModel(name=ModelName(name), version=version, folder=folder, source=kind, info=check_servable(folder))


def _write_binary_form(source: Path, destination: Path) -> None:
    """Convert a SavedModel in protobuf's text format into TensorFlow's binary file."""
    import_tensorflow()
    from google.protobuf import text_format  # noqa: PLC0415  # TensorFlow is optional
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel  # noqa: PLC0415

    try:
        message = text_format.Parse(source.read_bytes(), SavedModel())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ModelCode.NOT_A_SAVED_MODEL.error(
            f"{source} is not a SavedModel in text form: {_first_line(error)}", hint="Export the model again."
        ) from error
    destination.write_bytes(message.SerializeToString())


def _keep_one_graph(folder: Path, tags: Sequence[str]) -> None:
    """Reduce the SavedModel to the graph with ``tags``, and set its tags to the single tag ``serve``.

    If the SavedModel already has this form, it is not changed.
    """
    message = read_saved_model(folder)
    served = serving_meta_graph(folder, message, tags)
    if len(message.meta_graphs) == 1 and list(served.meta_info_def.tags) == [SERVE_TAG]:
        return
    kept = pb.MetaGraphDef()
    kept.CopyFrom(served)
    kept.meta_info_def.tags[:] = [SERVE_TAG]
    del message.meta_graphs[:]
    message.meta_graphs.append(kept)
    (folder / SAVED_MODEL_FILE).write_bytes(message.SerializeToString())
    (folder / _FINGERPRINT).unlink(missing_ok=True)  # it describes the original file


@contextmanager
def tensorflow_writes() -> Iterator[None]:
    """Convert TensorFlow's error for a full disk into the operating system's error."""
    try:
        yield
    except Exception as error:
        text = str(error)
        code = next((code for code in NO_ROOM if os.strerror(code) in text), None)
        if code is None or not isinstance(error, import_tensorflow().errors.OpError):
            raise
        raise OSError(code, os.strerror(code)) from error


def _write_saved_model(
    source: Path, folder: Path, *, inputs: Sequence[str], outputs: Sequence[str], keep_frozen: bool
) -> None:
    """Write the graph in ``source`` as a SavedModel with one signature, without placement of nodes on devices."""
    tf = import_tensorflow()
    saved_model = tf.compat.v1.saved_model
    graph_def = tf.compat.v1.GraphDef.FromString(source.read_bytes())
    for node in graph_def.node:
        node.device = ""  # otherwise the operation that reads a variable would be placed on the same device
    lifted = Lifted(graph_def=graph_def, values={}) if keep_frozen else lift(graph_def, keep={*inputs, *outputs})
    with tf.Graph().as_default() as graph:
        try:
            import_lifted(lifted)
        except (ValueError, tf.errors.OpError) as error:
            raise ModelCode.REFUSED.error(
                f"{source} cannot be loaded by TensorFlow {tf.__version__}: {_first_line(error)}",
                hint="Convert the model with a TensorFlow version that can load it, or export it as a SavedModel.",
            ) from error
        with tf.compat.v1.Session(graph=graph) as session:
            initialise(lifted, session)
            signature = saved_model.build_signature_def(
                inputs={name: _tensor_info(graph, name) for name in inputs},
                outputs={name: _tensor_info(graph, name) for name in outputs},
                method_name=saved_model.signature_constants.PREDICT_METHOD_NAME,
            )
            builder = saved_model.Builder(str(folder))
            builder.add_meta_graph_and_variables(
                session, [SERVE_TAG], signature_def_map={DEFAULT_SIGNATURE: signature}, clear_devices=True
            )
            builder.save()
    check_written(lifted, folder)


def _tensor_info(graph: Any, node: str) -> Any:
    """Return the ``TensorInfo`` of a node's first output. TensorFlow's own function for this is deprecated."""
    from tensorflow.core.protobuf.meta_graph_pb2 import TensorInfo  # noqa: PLC0415  # TensorFlow is optional

    tensor = graph.get_tensor_by_name(f"{node}:0")
    return TensorInfo(name=tensor.name, dtype=tensor.dtype.as_datatype_enum, tensor_shape=tensor.shape.as_proto())


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0]


def _checked_name(name: str) -> str:
    try:
        return TypeAdapter(names.Name).validate_python(name)
    except ValidationError as error:
        raise ModelCode.INVALID_NAME.error(
            f"{name!r} is not a valid name of a servable.",
            hint="Use at most 63 letters and digits, with '.', '_' and '-' between them.",
        ) from error


def _checked_version(version: int) -> int:
    if not 0 <= version <= LARGEST_VERSION:
        raise ModelCode.INVALID_NAME.error(
            f"The version {version} is out of range: expected a number from 0 to {LARGEST_VERSION}."
        )
    return version
