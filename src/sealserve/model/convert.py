"""Models come in: a frozen graph becomes a SavedModel, a SavedModel is checked and copied whole."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from sealserve import deployment
from sealserve.atomic_file import OutputExistsError
from sealserve.deployment import ModelName
from sealserve.errors import InputError
from sealserve.model.frozen_graph import check_frozen, read_graph
from sealserve.model.lifting import Lifted, check_written, import_lifted, initialise, lift
from sealserve.model.saved_model import (
    DEFAULT_SIGNATURE,
    SERVE_TAG,
    ModelMissingError,
    SavedModelInfo,
    check_servable,
    plain_files,
)
from sealserve.model.tensorflow_import import import_tensorflow
from sealserve.whole_folder import appearing

Progress = Callable[[str], None]
"""Called with a few words at the start of each step."""


class ModelNameError(InputError):
    """The name or the version cannot be those of a servable."""

    code = "model.invalid-name"


class ModelRefusedError(InputError):
    """TensorFlow does not load the graph."""

    code = "model.refused"


class SourceKind(StrEnum):
    """What a model was imported from."""

    FROZEN_GRAPH = "frozen-graph"
    SAVED_MODEL = "saved-model"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedModel:
    """A model that is ready to be sealed.

    Args:
        name: The servable's name.
        version: Its version.
        folder: The SavedModel, ``NAME/VERSION`` below the destination.
        source: What it was made from.
        info: What is in it.
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
    keep_frozen: bool = False,
    progress: Progress | None = None,
) -> ImportedModel:
    """Make ``destination/NAME/VERSION`` from a frozen graph or a SavedModel, whole or not at all.

    Args:
        source: A frozen graph (a file), or a SavedModel (a folder).
        destination: The folder of all models; made where it is missing.
        name: The servable's name.
        version: Its version.
        inputs: Names of a frozen graph's input nodes; the signature's inputs have the same names.
        outputs: Names of its output nodes, likewise.
        keep_frozen: Whether a frozen graph's large constants stay constants. Otherwise they become variables, of which
            TensorFlow keeps one copy, and not several.
        progress: Called at the start of each step.

    Raises:
        ModelNameError: ``name`` or ``version`` cannot be a servable's.
        ModelMissingError: There is nothing at ``source``.
        OutputExistsError: That version of that model exists already.
        NotAGraphError, NodeUnknownError, NotFrozenError, SignatureMissingError: As `check_frozen`.
        ModelRefusedError: TensorFlow does not load the graph.
        TensorFlowMissingError: A frozen graph needs TensorFlow, and there is none.
        NotASavedModelError, FileUnusableError, ServeTagMissingError, VariablesMissingError: As `check_servable`.
        LiftingError: A variable was not written with the value of its constant.
        DiskFullError: There is no room for it.
    """
    tell = progress or (lambda _: None)
    folder = destination / _checked_name(name) / str(_checked_version(version))
    if not source.exists():
        raise ModelMissingError(f"There is no model at {source}.")
    if folder.exists():
        raise OutputExistsError(f"{folder} exists already.", hint="Give another --version, or remove the folder.")
    kind = SourceKind.SAVED_MODEL if source.is_dir() else SourceKind.FROZEN_GRAPH
    if kind is SourceKind.SAVED_MODEL:
        tell("checking the SavedModel")
        check_servable(source)
        if folder.resolve().is_relative_to(source.resolve()):
            raise OutputExistsError(f"{folder} lies inside {source}.", hint="Give another destination.")
        with appearing(folder) as temporary:
            tell("copying the SavedModel")
            for file in plain_files(source):
                target = temporary / file.relative_to(source)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
            check_servable(temporary)
    else:
        tell("reading the frozen graph")
        check_frozen(read_graph(source), source, inputs=inputs, outputs=outputs)
        with appearing(folder) as temporary:
            tell("writing the SavedModel")
            _write_saved_model(source, temporary, inputs=inputs, outputs=outputs, keep_frozen=keep_frozen)
            check_servable(temporary)
    return ImportedModel(name=ModelName(name), version=version, folder=folder, source=kind, info=check_servable(folder))


def _write_saved_model(
    source: Path, folder: Path, *, inputs: Sequence[str], outputs: Sequence[str], keep_frozen: bool
) -> None:
    """Write the graph in ``source`` as a SavedModel with one signature, its placement on devices removed."""
    tf = import_tensorflow()
    saved_model = tf.compat.v1.saved_model
    graph_def = tf.compat.v1.GraphDef.FromString(source.read_bytes())
    for node in graph_def.node:
        node.device = ""  # a variable's reader would be placed beside it
    lifted = Lifted(graph_def=graph_def, values={}) if keep_frozen else lift(graph_def, keep={*inputs, *outputs})
    with tf.Graph().as_default() as graph:
        try:
            import_lifted(lifted)
        except (ValueError, tf.errors.OpError) as error:
            raise ModelRefusedError(
                f"TensorFlow {tf.__version__} does not load {source}: {_first_line(error)}"
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
    """Return the ``TensorInfo`` of a node's first output (TensorFlow's own builder of it is deprecated)."""
    from tensorflow.core.protobuf.meta_graph_pb2 import TensorInfo  # noqa: PLC0415  # TensorFlow is optional

    tensor = graph.get_tensor_by_name(f"{node}:0")
    return TensorInfo(name=tensor.name, dtype=tensor.dtype.as_datatype_enum, tensor_shape=tensor.shape.as_proto())


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0]


def _checked_name(name: str) -> str:
    try:
        return TypeAdapter(deployment.Name).validate_python(name)
    except ValidationError as error:
        raise ModelNameError(
            f"{name!r} is no servable's name.", hint="Letters, digits, and '.', '_' and '-' between them, at most 63."
        ) from error


def _checked_version(version: int) -> int:
    if version < 1:
        raise ModelNameError(f"A servable's version is a number from 1 on, not {version}.")
    return version
