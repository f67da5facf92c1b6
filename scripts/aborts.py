"""Find TensorFlow operations that end the process, instead of failing, when an input has a hostile shape or value.

Each operation with a CPU kernel runs in a child process, in a graph that declares no shapes, as the model server runs
it. The child draws inputs of every rank with many sizes and values. It keeps inputs that the operation accepts, and
changes them one at a time. When the child dies, the parent reads the running call from shared memory.

    python scripts/aborts.py --output aborts.jsonl [--seconds 10] [--onednn 0] [--only Conv2D,MaxPool]
    python scripts/aborts.py --summarise aborts.jsonl more.jsonl

Each line of the output is a call that ended the process, or the total of an operation's calls. The second command
writes `src/sealserve/serving/runtime/tried_operations.py`. This module lists the operations that accepted or rejected
calls and ended the process only in ways that `aborting_operations.py` prevents. That module is written by hand from
these lines. The search is random with a fixed seed: it finds many faults, and proves nothing.
"""

import argparse
import json
import mmap
import os
import random
import resource
import signal
import textwrap
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

_BLACK: Final = (
    # These end or block the process on purpose, or access files, networks, threads or Python.
    *("Abort", "Rpc", "TryRpc", "PyFunc", "EagerPyFunc", "PyFuncStateless", "Recv", "Send", "Fact", "Stage"),
    *("MapStage", "OrderedMapStage", "MapUnstage", "OrderedMapUnstage", "Unstage", "Timestamp"),
)
_BLACK_PARTS: Final = (
    *("Dataset", "Iterator", "Collective", "Nccl", "TPU", "Summary", "File", "Xla", "XLA", "DebugNumeric", "Save"),
    *("Restore", "Reader", "Record", "Distributed", "Worker", "DataService", "Tpu", "Print", "Barrier", "Shard"),
    *("Ragged" + "TensorToVariantGradient", "Write" + "GraphDef", "Multi" + "Device", "Remote", "Directory", "Lmdb"),
)
_MODULE: Final = Path(__file__).resolve().parent.parent / "src/sealserve/serving/runtime/tried_operations.py"
_HEAD: Final = '''"""Operations that were given inputs of hostile shapes and values, and did not end the process.

Written by ``scripts/aborts.py --summarise``, with TensorFlow 2.21, with oneDNN and without it. An operation with a
rule in `aborting_operations` is safe only behind a guard.
"""

from typing import Final

'''
_SIZES: Final = (0, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 8, 17)
_EASY: Final = ((), (1,), (1,), (2,), (1, 1), (2, 2), (1, 1, 1), (1, 1, 1, 1), (1, 2, 2, 1))
_INTEGERS: Final = (0, 0, 1, 1, 2, 2, 3, 4, 5, -1, -1, -2, -5, 7, 100, 2**31 - 1, -(2**31), 2**40, -(2**62))
_EMPTY_EXTENT: Final = 2**20
"""The largest size beside a zero. The server accepts no larger one (``sealserve.serving.api.predict``)."""
_MEMORY: Final = 12 * 2**30
_RANKS: Final = 64_000
"""Offset where a child records the accepted ranks, in 16 bytes for each input."""
_ENOUGH: Final = 50
"""Minimum number of rejected calls for an operation that accepted none."""
_EXPLAINED: Final = {
    "ParseExample": "its keys are not scalars, but models use constant keys",
    "BatchMatMulV2": "float16 only, and with valid shapes: oneDNN reuses a primitive of a different shape",
}
_DEATHS: Final = 25
"""Maximum number of process ends after which the search of one operation stops."""


def _operations() -> list[Any]:
    from tensorflow.core.framework.op_def_pb2 import OpList  # noqa: PLC0415  # it takes seconds
    from tensorflow.python.client import pywrap_tf_session  # noqa: PLC0415
    from tensorflow.python.framework import kernels  # noqa: PLC0415

    on_cpu = {kernel.op for kernel in kernels.get_all_registered_kernels().kernel if kernel.device_type == "CPU"}
    registered = OpList.FromString(pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList()))
    return sorted(
        (
            operation
            for operation in registered.op
            if operation.name in on_cpu
            and not operation.name.startswith("_")
            and operation.name not in _BLACK
            and not any(part in operation.name for part in _BLACK_PARTS)
            and not any(attr.type in {"func", "list(func)"} for attr in operation.attr)
        ),
        key=lambda operation: operation.name,
    )


class _Search:
    """The search for inputs of one operation, in a child process."""

    def __init__(self, definition: Any, seed: str, note: mmap.mmap, avoided: set[tuple[int, int]]) -> None:
        import numpy as np  # noqa: PLC0415
        import tensorflow as tf  # noqa: PLC0415

        self.np, self.tf = np, tf
        self.definition = definition
        self.random = random.Random(seed)
        self.note = note
        self.avoided = avoided
        self.accepted = 0
        self.ran = 0

    # -- attributes ---------------------------------------------------------------------------------------------------

    def attributes(self) -> dict[str, Any]:
        return {attr.name: self._attribute(attr) for attr in self.definition.attr}

    def _attribute(self, attr: Any) -> Any:
        pick, tf = self.random, self.tf
        allowed = attr.allowed_values.list
        if attr.type == "type":
            return self._type(list(allowed.type))
        if attr.type == "list(type)":
            count = max(attr.minimum, pick.choice((1, 1, 2, 3)))
            return [self._type(list(allowed.type)) for _ in range(count)]
        if attr.type == "bool":
            return pick.random() < 0.5
        if attr.type == "int":
            if attr.has_minimum:
                return attr.minimum + pick.choice((0, 0, 1, 1, 2, 3))
            if attr.HasField("default_value") and pick.random() < 0.6:
                return attr.default_value.i
            return pick.choice((0, 1, 1, 2, 3, -1, 8))
        if attr.type == "float":
            return pick.choice((attr.default_value.f, 0.0, 1.0, 0.5, -1.0, 1e30))
        if attr.type == "string":
            if allowed.s:
                if attr.HasField("default_value") and pick.random() < 0.6:
                    return attr.default_value.s
                return pick.choice(list(allowed.s))
            if attr.name == "equation":
                return pick.choice((b"ab,bc->ac", b"...ab,...bc->...ac", b"aab,b->a"))
            return attr.default_value.s if attr.HasField("default_value") else b""
        if attr.type == "shape":
            return tf.TensorShape(pick.choice((None, [], [2], [3, 4], [None, 4], [1, 2, 2, 1])))
        if attr.type == "tensor":
            return tf.make_tensor_proto(pick.choice((1.0, [1.0, 2.0])))
        if attr.type == "list(int)":
            return self._integers(attr)
        if attr.type == "list(float)":
            return list(attr.default_value.list.f) or [pick.choice((0.0, 1.0, 2.0)) for _ in range(pick.randrange(4))]
        if attr.type == "list(string)":
            return list(attr.default_value.list.s) or [b"a"] * pick.randrange(3)
        if attr.type == "list(shape)":
            return [tf.TensorShape(pick.choice((None, [], [2], [None]))) for _ in range(pick.choice((1, 1, 2)))]
        return None

    def _integers(self, attr: Any) -> list[int]:
        pick, name = self.random, attr.name
        default = list(attr.default_value.list.i)
        if default and pick.random() < 0.6:
            return default
        rank = 5 if "3D" in self.definition.name else 4
        if name in {"strides", "ksize", "ksizes", "rates", "dilations", "window", "window_strides"}:
            inner = [pick.choice((1, 2, 2, 3, 5)) for _ in range(rank - 2)]
            if pick.random() < 0.7:
                inner = [inner[0]] * (rank - 2)
            return [1, *inner, 1]
        if name == "explicit_paddings":
            return pick.choice(([], [0, 0, 1, 1, 1, 1, 0, 0]))
        return [pick.choice((0, 1, 2, -1)) for _ in range(max(attr.minimum, pick.randrange(4)))]

    def _type(self, allowed: Sequence[int]) -> Any:
        tf, pick = self.tf, self.random
        common = (1, 1, 1, 1, 1, 3, 9, 7, 10, 19, 14, 2, 4, 6, 8, 18)
        wanted = [code for code in common if not allowed or code in allowed] or list(allowed)
        if pick.random() < 0.2 and allowed:
            wanted = [code for code in allowed if code not in {20, 21}] or wanted
        return tf.as_dtype(pick.choice(wanted))

    # -- values -------------------------------------------------------------------------------------------------------

    def draw(self) -> tuple[tuple[int, ...], str, int]:
        pick = self.random
        rank = pick.choice((0, 1, 1, 2, 2, 3, 4, 4, 5, 6, 8))
        shape = tuple(pick.choice(_SIZES) for _ in range(rank))
        if rank > 4:
            shape = tuple(min(size, 3) for size in shape)
        if rank and pick.random() < 0.03:
            shape = (100_000,) if rank == 1 else (*(min(size, 1) for size in shape[:-1]), 70_000)
        if rank > 1 and pick.random() < 0.05:
            empty, large = pick.sample(range(rank), 2)
            shape = tuple(0 if at == empty else _EMPTY_EXTENT if at == large else 1 for at in range(rank))
        while self.np.prod(shape, dtype=float) > 2**18:
            shape = tuple(max(size // 2, 1) for size in shape)
        return shape, pick.choice(("ones", "small", "small", "mixed", "mixed", "zeros", "range")), pick.randrange(2**30)

    def value(self, dtype: Any, spec: tuple[tuple[int, ...], str, int]) -> Any:
        shape, filling, seed = spec
        np, pick = self.np, random.Random(seed)
        count = int(np.prod(shape, dtype=np.int64))
        if dtype == self.tf.string:
            words = (b"", b"a", b"\xff", b"1", b"hello world", b"\x89PNG", b"(?", b"1e999", b"a,b")
            return np.array([pick.choice(words) for _ in range(count)], dtype=object).reshape(shape)
        kind = np.dtype(dtype.as_numpy_dtype)
        if filling in {"ones", "zeros"}:
            return np.full(shape, filling == "ones", kind)
        if filling == "range":
            return np.arange(count).reshape(shape).astype(kind)
        floats = (0.0, 1.0, -1.0, 0.5, 3.7, float("nan"), float("inf"), -float("inf"), 1e30, -1e-30)
        pool: Sequence[Any] = _INTEGERS if filling == "mixed" else (0, 1, 1, 2, 3, -1)
        if filling == "mixed" and not (dtype.is_integer or dtype.is_bool):
            pool = floats
        if dtype.is_integer:
            low, high = int(dtype.min), int(dtype.max)
            pool = [entry for entry in pool if low <= entry <= high]
        chosen = [pick.choice(pool) for _ in range(min(count, 64))]
        with np.errstate(all="ignore"):
            return np.resize(np.array(chosen), shape).astype(kind) if count else np.zeros(shape, kind)

    # -- graphs -------------------------------------------------------------------------------------------------------

    def _resource(self) -> Any:
        raw, tf = self.tf.raw_ops, self.tf
        kind = self.random.randrange(6)
        if kind <= 2:
            shape, _, _ = self.draw()
            dtype = self.random.choice((tf.float32, tf.float32, tf.int32, tf.int64))
            handle = raw.VarHandleOp(dtype=dtype, shape=None, shared_name=f"v{self.random.random()}")
            value = self.value(dtype, (shape, "small", 1))
            self.setup.append(raw.AssignVariableOp(resource=handle, value=tf.constant(value)))
            return handle
        if kind == 3:
            handle, flow = raw.TensorArrayV3(size=3, dtype=tf.float32, dynamic_size=True, clear_after_read=False)
            self.arrays.append(flow)
            return handle
        if kind == 4:
            return raw.MutableHashTableV2(key_dtype=tf.int64, value_dtype=tf.float32, shared_name="t")
        return raw.MutableDenseHashTableV2(
            empty_key=tf.constant(-9, tf.int64), deleted_key=tf.constant(-8, tf.int64), value_dtype=tf.float32
        )

    def _variant(self) -> Any:
        raw, tf, kind = self.tf.raw_ops, self.tf, self.random.randrange(5)
        shape, _, _ = self.draw()
        if kind <= 1 and shape:
            return raw.TensorListFromTensor(
                tensor=tf.constant(self.value(tf.float32, (shape, "small", 1))), element_shape=tf.constant(-1, tf.int32)
            )
        if kind == 2:
            return raw.TensorListReserve(element_shape=tf.constant(-1), num_elements=3, element_dtype=tf.float32)
        if kind == 3:
            return raw.EmptyTensorList(element_shape=tf.constant(-1), max_num_elements=-1, element_dtype=tf.float32)
        rows = tf.constant([0, 1, 3], tf.int64)
        values = tf.constant([1.0, 2.0, 3.0])
        return raw.RaggedTensorToVariant(rt_nested_splits=[rows], rt_dense_values=values, batched_input=True)

    def _input(self, dtype: Any, feeds: list[Any]) -> Any:
        tf = self.tf
        dtype = tf.as_dtype(dtype)
        if dtype.is_ref_dtype if hasattr(dtype, "is_ref_dtype") else dtype._is_ref_dtype:  # noqa: SLF001
            shape, _, _ = self.draw()
            variable = tf.raw_ops.VariableV2(shape=shape, dtype=dtype.base_dtype)
            self.setup.append(
                tf.raw_ops.Assign(
                    ref=variable,
                    value=tf.constant(self.value(dtype.base_dtype, (shape, "small", 1))),
                    validate_shape=False,
                )
            )
            return variable
        if dtype == tf.resource:
            return self._resource()
        if dtype == tf.variant:
            return self._variant()
        fed = tf.compat.v1.placeholder(dtype, None)
        feeds.append(fed)
        return fed

    def graph(self, attributes: dict[str, Any]) -> Any:
        """Return a session, the placeholders and the fetches. None if TensorFlow rejects the graph."""
        tf = self.tf
        self.setup: list[Any] = []
        self.arrays: list[Any] = []
        feeds: list[Any] = []
        graph = tf.Graph()
        with graph.as_default():
            inputs: list[Any] = []
            for argument in self.definition.input_arg:
                types = self._argument_types(argument, attributes)
                entries = [self._input(self._ref(argument, dtype), feeds) for dtype in types]
                inputs.append(entries if argument.number_attr or argument.type_list_attr else entries[0])
            attrs = {}
            for attr in self.definition.attr:
                value = attributes[attr.name]
                message = tf.compat.v1.AttrValue()
                self._fill(message, attr.type, value)
                attrs[attr.name] = message
            flat: list[Any] = [part for entry in inputs for part in (entry if isinstance(entry, list) else [entry])]
            node = tf.compat.v1.NodeDef(name="tried", op=self.definition.name)
            for name, message in attrs.items():
                node.attr[name].CopyFrom(message)
            from tensorflow.python.framework import ops  # noqa: PLC0415

            operation = ops.Operation.from_node_def(
                node, graph, inputs=flat, output_types=None, input_types=None, op_def=self.definition
            )
            fetches = [
                output if output.dtype not in {tf.resource, tf.variant} else tf.raw_ops.Shape(input=output)
                for output in operation.outputs
            ]
            fetches = [fetch for fetch in fetches if not fetch.dtype._is_ref_dtype] or [operation]  # noqa: SLF001
        config = tf.compat.v1.ConfigProto(
            intra_op_parallelism_threads=1, inter_op_parallelism_threads=1, use_per_session_threads=True
        )
        session = tf.compat.v1.Session(graph=graph, config=config)
        if self.setup:
            session.run([getattr(entry, "op", entry) for entry in self.setup])
        return session, feeds, fetches

    @staticmethod
    def _argument_types(argument: Any, attributes: dict[str, Any]) -> list[Any]:
        if argument.type_list_attr:
            return list(attributes[argument.type_list_attr])
        single = attributes[argument.type_attr] if argument.type_attr else argument.type
        return [single] * (attributes[argument.number_attr] if argument.number_attr else 1)

    def _ref(self, argument: Any, dtype: Any) -> Any:
        dtype = self.tf.as_dtype(dtype)
        return dtype._as_ref if argument.is_ref else dtype  # noqa: SLF001

    @staticmethod
    def _fill(message: Any, kind: str, value: Any) -> None:
        if kind == "type":
            message.type = value.as_datatype_enum
        elif kind == "list(type)":
            message.list.type.extend(entry.as_datatype_enum for entry in value)
        elif kind == "shape":
            message.shape.CopyFrom(value.as_proto())
        elif kind == "list(shape)":
            message.list.shape.extend(entry.as_proto() for entry in value)
        elif kind == "tensor":
            message.tensor.CopyFrom(value)
        elif kind.startswith("list("):
            field = {"int": "i", "float": "f", "string": "s", "bool": "b"}[kind[5:-1]]
            message.list.SetInParent()
            getattr(message.list, field).extend(value)
        else:
            setattr(message, {"int": "i", "float": "f", "string": "s", "bool": "b"}[kind], value)

    # -- the search ---------------------------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        tf = self.tf
        until = time.monotonic() + seconds
        options = tf.compat.v1.RunOptions(timeout_in_ms=2000)
        while time.monotonic() < until:
            attributes = self.attributes()
            self._write({"attributes": {name: str(value) for name, value in attributes.items()}, "inputs": "setup"})
            try:
                session, feeds, fetches = self.graph(attributes)
            except Exception:  # noqa: BLE001, S112  # incompatible attributes
                continue
            corpus: list[list[Any]] = []
            tries = 12 if not feeds else 160
            for _ in range(tries):
                if time.monotonic() > until:
                    break
                specs = self._next(corpus, len(feeds))
                if any((place, len(spec[0])) in self.avoided for place, spec in enumerate(specs)):
                    continue
                try:
                    values = [self.value(fed.dtype, spec) for fed, spec in zip(feeds, specs, strict=True)]
                except Exception:  # noqa: BLE001  # numpy has no such values for this type
                    break
                self._write(
                    {
                        "attributes": {name: str(value) for name, value in attributes.items()},
                        "inputs": [
                            {"type": fed.dtype.name, "shape": value.shape, "values": str(value.ravel()[:12].tolist())}
                            for fed, value in zip(feeds, values, strict=True)
                        ],
                    }
                )
                self.ran += 1
                self._count()
                try:
                    session.run(fetches, dict(zip(feeds, values, strict=True)), options=options)
                except Exception as error:  # noqa: BLE001  # a clean failure is the desired result
                    if "No OpKernel" in str(error) or "no OpKernel" in str(error):
                        break
                    continue
                self.accepted += 1
                self._count()
                corpus.append(specs)
                for place, spec in enumerate(specs):
                    self.note[_RANKS + place % 16 * 16 + len(spec[0])] = 1
            session.close()

    def _next(self, corpus: list[list[Any]], count: int) -> list[Any]:
        pick = self.random
        if not corpus or pick.random() < 0.25:
            if pick.random() < 0.3:  # small and similar inputs are accepted most often
                return [(pick.choice(_EASY), pick.choice(("ones", "zeros", "small")), 1) for _ in range(count)]
            if pick.random() < 0.4:
                shape, _, _ = self.draw()
                return [(shape, *self.draw()[1:]) for _ in range(count)]
            return [self.draw() for _ in range(count)]
        specs = list(pick.choice(corpus))
        if not specs:
            return specs
        place = pick.randrange(count)
        shape, filling, seed = specs[place]
        change = pick.randrange(5)
        if change == 0:
            specs[place] = self.draw()
        elif change == 1 and shape:
            at = pick.randrange(len(shape))
            specs[place] = ((*shape[:at], pick.choice(_SIZES), *shape[at + 1 :]), filling, seed)
        elif change == 2 and shape:
            specs[place] = (shape[1:], filling, seed)
        elif change == 3:
            specs[place] = ((*shape, 1), filling, seed)
        else:
            specs[place] = (shape, *self.draw()[1:])
        return specs

    def _count(self) -> None:
        self.note[65_000:65_016] = self.accepted.to_bytes(8, "little") + self.ran.to_bytes(8, "little")

    def _write(self, case: dict[str, Any]) -> None:
        content = json.dumps(case).encode()[:60_000]
        self.note[4 : 4 + len(content)] = content
        self.note[:4] = len(content).to_bytes(4, "little")


def _child(
    definition: Any, seed: str, seconds: float, note: mmap.mmap, log: Path, avoided: set[tuple[int, int]]
) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(5)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    search = _Search(definition, seed, note, avoided)
    try:
        search.run(seconds)
    finally:
        os._exit(0)


def _try(definition: Any, seconds: float, folder: Path) -> list[dict[str, Any]]:
    """Return the calls that ended the process, and a final line with the totals."""
    found: list[dict[str, Any]] = []
    until, attempt, accepted, ran = time.monotonic() + seconds, 0, 0, 0
    log = folder / f"{definition.name}.log"
    deaths: Counter[tuple[int, int]] = Counter()
    fine: set[tuple[int, int]] = set()
    while attempt == 0 or (time.monotonic() < until and len(found) < _DEATHS):
        # If an operation always ends the process at a rank, this rank hides other faults.
        avoided = {entry for entry, count in deaths.items() if count >= 2 and entry not in fine}
        with mmap.mmap(-1, 65_536) as note:
            child = os.fork()
            if child == 0:
                _child(definition, f"{definition.name}-{attempt}", max(until - time.monotonic(), 1), note, log, avoided)
            status = _wait(child, until + 10)
            attempt += 1
            accepted += int.from_bytes(note[65_000:65_008], "little")
            ran += int.from_bytes(note[65_008:65_016], "little")
            fine |= {(at // 16, at % 16) for at in range(256) if note[_RANKS + at]}
            if os.WIFSIGNALED(status):
                case = note[4 : 4 + int.from_bytes(note[:4], "little")].decode(errors="replace")
                words = [
                    line for line in log.read_text(errors="replace").splitlines() if "] " in line or "what" in line
                ]
                words = [line for line in words if "F0000" in line or "what()" in line or "Check failed" in line]
                try:
                    parsed = json.loads(case or "{}")
                except ValueError:
                    parsed = {"cut": case[:2000]}
                if isinstance(parsed.get("inputs"), list):
                    deaths.update((place, len(entry["shape"])) for place, entry in enumerate(parsed["inputs"]))
                found.append(
                    {
                        "operation": definition.name,
                        "signal": signal.Signals(os.WTERMSIG(status)).name,
                        "text": (words[-1].partition("] ")[2] or words[-1])[:300] if words else "",
                        "where": words[-1].partition("]")[0].rpartition(" ")[2] if words else "",
                        **parsed,
                    }
                )
    log.unlink(missing_ok=True)
    return [*found, {"operation": definition.name, "deaths": len(found), "accepted": accepted, "ran": ran}]


def _wait(child: int, until: float) -> int:
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.01)


def _summarise(files: Sequence[Path]) -> None:
    """Write the module with the tried operations."""
    from sealserve.serving.runtime.aborting_operations import GUARDED  # noqa: PLC0415  # only here

    tried: Counter[str] = Counter()
    died: set[str] = set()
    for file in files:
        for line in map(json.loads, file.read_text("utf-8").splitlines()):
            if "deaths" in line:
                tried[line["operation"]] += line["ran"] + _ENOUGH * line["accepted"]
            elif line["signal"] != "SIGKILL" and "bad_alloc" not in line["text"]:
                died.add(line["operation"])  # a timeout or lack of memory does not count
    died -= set(_EXPLAINED)
    names = sorted(name for name, count in tried.items() if name in GUARDED or (count >= _ENOUGH and name not in died))
    text = textwrap.fill(" ".join(names), 116, break_long_words=False, break_on_hyphens=False)
    _MODULE.write_text(f'{_HEAD}_NAMES: Final = """\n{text}\n"""\nTRIED: Final = frozenset(_NAMES.split())\n', "utf-8")
    print(len(names), "tried;", "unexplained:", *sorted(died - GUARDED))


def main() -> None:
    """Run the search."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--summarise", type=Path, nargs="+")
    parser.add_argument("--seconds", type=float, default=10, help="seconds for each operation")
    parser.add_argument("--onednn", default="1", choices=("0", "1"))
    parser.add_argument("--only", default="", help="names of operations, separated by commas")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    if options.summarise:
        _summarise(options.summarise)
        return
    if options.output is None:
        parser.error("give --output or --summarise")
    os.environ |= {"TF_ENABLE_ONEDNN_OPTS": options.onednn, "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1"}
    chosen = set(filter(None, options.only.split(",")))
    definitions = [entry for entry in _operations() if not chosen or entry.name in chosen]
    import tensorflow  # noqa: ICN001, F401, PLC0415  # import it once, before the children are forked

    folder = options.output.with_suffix(".logs")
    folder.mkdir(exist_ok=True)
    # Each worker is a separate process that forks, because a fork in a process with threads could hang.
    workers = []
    for number in range(options.workers):
        worker = os.fork()
        if worker == 0:
            with options.output.with_suffix(f".{number}").open("w", encoding="utf-8") as lines:
                for definition in definitions[number :: options.workers]:
                    for line in _try(definition, options.seconds, folder):
                        lines.write(json.dumps(line) + "\n")
                    lines.flush()
            os._exit(0)
        workers.append(worker)
    for worker in workers:
        os.waitpid(worker, 0)
    parts = [options.output.with_suffix(f".{number}") for number in range(options.workers)]
    lines = sorted(line for part in parts for line in part.read_text("utf-8").splitlines())
    options.output.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    for part in parts:
        part.unlink()


if __name__ == "__main__":
    main()
