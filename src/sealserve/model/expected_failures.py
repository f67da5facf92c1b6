"""Detects models that load but fail at the first request. The files are parsed without TensorFlow."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from sealserve.model import saved_model_pb2 as pb
from sealserve.model.loading_runs import asset_files, loading_runs, request_tensors
from sealserve.model.program import Program
from sealserve.model.saved_model import VARIABLE_OPERATIONS, missing_variables

_TABLES: Final = frozenset({"HashTable", "HashTableV2"})
_PROCESSOR: Final = "CPU"
_SHOWN: Final = 3


def expected_failures(folder: Path, graph: pb.MetaGraphDef, program: Program) -> Iterator[str]:
    """Yield one sentence per kind of failure: uninitialized variables and tables, missing files, wrong devices.

    Args:
        folder: The SavedModel.
        graph: The graph that is served.
        program: The same graph as a program.
    """
    loaded = _ran(program, (target for run in loading_runs(graph) for target in run.targets))
    requested = _ran(program, request_tensors(graph))
    unset = sorted(requested - loaded)
    if variables := [name for name in unset if program.nodes[name].op in VARIABLE_OPERATIONS]:
        yield f"Loading does not initialize {_named('variable', variables)}: requests that read it fail."
    elif any(program.nodes[name].op in VARIABLE_OPERATIONS for name in requested) and (
        missing := missing_variables(folder)
    ):
        yield f"The values of its variables are incomplete: {missing} is missing."
    if tables := [name for name in unset if program.nodes[name].op in _TABLES]:
        yield f"Loading does not initialize {_named('table', tables)}: requests that use it fail."
    if missing_assets := [name for name in asset_files(graph) if not (folder / "assets" / name).is_file()]:
        yield f"Loading fails: the assets folder does not contain {_named('asset', missing_assets)}."
    devices = sorted({program.node(place).device for place in program.runs(request_tensors(graph))})
    if foreign := [device for device in devices if device and _PROCESSOR not in device.upper()]:
        yield f"Nodes are pinned to {', '.join(foreign[:_SHOWN])}, but an enclave can use only the CPU."


def _ran(program: Program, tensors: Iterable[str]) -> frozenset[str]:
    """Return the nodes of the graph itself, without its functions, that run for ``tensors``."""
    return frozenset(name for function, name in program.runs(tensors) if not function)


def _named(kind: str, names: list[str]) -> str:
    listed = ", ".join(repr(name) for name in names[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"the {kind}{'s' if len(names) > 1 else ''} {listed}{more}"
