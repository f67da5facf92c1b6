"""The runs that load a meta graph in a model server, and the file names that the loader feeds.

TensorFlow's loader makes two runs: one restores the variables, one initializes the tables. It feeds the path of the
variables to the first, and the paths of the assets to both. Source: ``cc/saved_model/loader.cc`` (``RestoreSession``)
and ``loader_util.cc`` (``GetAssetFileDefs``, ``GetInitOp``) of TensorFlow 2.21.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from google.protobuf.message import DecodeError

from sealserve.model import saved_model_pb2 as pb
from sealserve.model.codes import ModelCode
from sealserve.model.program import node_name
from sealserve.serving_interface import INTERNAL_SIGNATURES

_INIT_SIGNATURE: Final = "__saved_model_init_op"
_INIT_COLLECTIONS: Final = ("saved_model_main_op", "legacy_init_op")
_ASSETS_COLLECTION: Final = "saved_model_assets"
_PLAIN_NAME: Final = re.compile(r"[^/\\\x00-\x1f\x7f]+")


class FedFile(StrEnum):
    """A file name that the loader feeds."""

    VARIABLES = "the variables"
    ASSET = "an asset"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadingRun:
    """A run of the session while a model is loaded.

    Args:
        targets: The operations that the run requests.
        feeds: The file names that the run feeds, by the tensor's name.
    """

    targets: tuple[str, ...]
    feeds: Mapping[str, FedFile]


def loading_runs(graph: pb.MetaGraphDef) -> tuple[LoadingRun, ...]:
    """Return the runs of TensorFlow's loader: restoring, then initializing. All known initializers are included.

    Raises:
        InputError: `model.asset-name`: An asset is not a plain file name.
        InputError: `model.ambiguous`: Two assets feed the same tensor.
    """
    feeds = dict.fromkeys(asset_tensors(graph), FedFile.ASSET)
    saver = graph.saver_def
    restore = LoadingRun(
        targets=(saver.restore_op_name,), feeds={**feeds, tensor_name(saver.filename_tensor_name): FedFile.VARIABLES}
    )
    initialise = LoadingRun(targets=tuple(_initialisers(graph)), feeds=feeds)
    return (restore, initialise) if saver.restore_op_name else (initialise,)


def asset_files(graph: pb.MetaGraphDef) -> list[str]:
    """Return the names of the asset files that the loader feeds, relative to the SavedModel's ``assets`` folder.

    Raises:
        InputError: `model.asset-name`: A name is not a plain file name.
    """
    assets = _assets(graph)
    for asset in assets:
        if not _PLAIN_NAME.fullmatch(asset.filename) or asset.filename in {".", ".."}:
            raise ModelCode.ASSET_NAME.error(
                f"The asset {asset.filename!r} is not the name of a file in the SavedModel's assets folder.",
                hint="Export the model again with tf.saved_model.Asset, which copies the file into that folder.",
            )
    return [asset.filename for asset in assets]


def tensor_name(name: str) -> str:
    """Return the full name of a tensor. A name without an index means the node's first output."""
    return name if ":" in name else f"{name}:0"


def request_tensors(graph: pb.MetaGraphDef) -> Iterator[str]:
    """Yield the tensors that a request can fetch or feed: the tensors of the signatures.

    The signature of the initializer normally names an operation without outputs, which a client cannot fetch. If it
    names any other operation, a client can fetch that too.
    """
    nodes = {node.name: node for node in graph.graph_def.node}
    for signature_name, signature in graph.signature_def.items():
        pending = [*signature.inputs.values(), *signature.outputs.values()]
        while pending:
            info = pending.pop()
            sparse = info.coo_sparse
            for name in (
                *(info.name, sparse.values_tensor_name, sparse.indices_tensor_name),
                sparse.dense_shape_tensor_name,
            ):
                operation = nodes.get(node_name(name))
                if signature_name not in INTERNAL_SIGNATURES or (operation is not None and operation.op != "NoOp"):
                    yield name
            pending += info.composite_tensor.components


def _initialisers(graph: pb.MetaGraphDef) -> Iterator[str]:
    if _INIT_SIGNATURE in graph.signature_def:
        yield from (info.name for info in graph.signature_def[_INIT_SIGNATURE].outputs.values())
    for key in _INIT_COLLECTIONS:
        if key in graph.collection_def:
            yield from graph.collection_def[key].node_list.value


def asset_tensors(graph: pb.MetaGraphDef) -> list[str]:
    """Return the tensors to which the loader feeds the paths of the assets.

    Raises:
        InputError: `model.asset-name`: An asset is not a plain file name.
        InputError: `model.ambiguous`: Two assets feed the same tensor.
    """
    asset_files(graph)
    names = [tensor_name(asset.tensor_info.name) for asset in _assets(graph)]
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise ModelCode.AMBIGUOUS.error(
            f"Several assets are fed to the same tensor, {repeated[0]!r}: the model is ambiguous.",
            hint="Export the model again with TensorFlow.",
        )
    return names


def _assets(graph: pb.MetaGraphDef) -> list[pb.AssetFileDef]:
    """Return the assets of the meta graph or, if it has none, the assets in the collection of older SavedModels."""
    if graph.asset_file_def or _ASSETS_COLLECTION not in graph.collection_def:
        return list(graph.asset_file_def)
    try:
        return [
            pb.AssetFileDef.FromString(found.value) for found in graph.collection_def[_ASSETS_COLLECTION].any_list.value
        ]
    except DecodeError as error:
        raise ModelCode.ASSET_NAME.error(
            "The SavedModel's list of assets cannot be parsed.", hint="Export the model again."
        ) from error
