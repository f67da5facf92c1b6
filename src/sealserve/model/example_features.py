"""The features that a graph parses from a serialized ``tf.Example``, and the words in a model's vocabularies.

Both are required to generate example inputs for a model with string inputs.

Source: tensorflow/core/ops/parsing_ops.cc, TensorFlow 2.21 (the order of inputs and the attributes of each operation).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_LARGEST_FILE: Final = 2**20
_MOST_WORDS: Final = 1000
_FEWEST_WORDS: Final = 3
_LONGEST_WORD: Final = 40


@dataclass(frozen=True, slots=True)
class Feature:
    """A feature of a ``tf.Example``: its type (``string``, ``float32`` or ``int64``), and its number of values."""

    dtype: str
    count: int


def parsed_features(graph: Any, tf: Any) -> Mapping[str, Feature]:
    """Return the features that a ``GraphDef`` parses, by name.

    Args:
        graph: TensorFlow's ``GraphDef`` message, with its library of functions.
        tf: The module ``tensorflow``.
    """
    found: dict[str, Feature] = {}
    for nodes in _bodies(graph):
        by_name = {node.name: node for node in nodes}
        for node in nodes:
            attributes = node.attr
            if node.op == "ParseSingleExample":
                sparse, dense = list(attributes["sparse_keys"].list.s), list(attributes["dense_keys"].list.s)
            elif node.op == "ParseExample":
                first, second = attributes["Nsparse"].i, attributes["Ndense"].i
                sparse = _keys(node.input[2 : 2 + first], by_name, tf)
                dense = _keys(node.input[2 + first : 2 + first + second], by_name, tf)
            elif node.op == "ParseExampleV2":
                sparse, dense = _keys(node.input[2:3], by_name, tf), _keys(node.input[3:4], by_name, tf)
                ragged = _keys(node.input[4:5], by_name, tf)
                found |= _features(ragged, attributes["ragged_value_types"].list.type, (), tf)
            else:
                continue
            found |= _features(sparse, attributes["sparse_types"].list.type, (), tf)
            found |= _features(dense, attributes["Tdense"].list.type, attributes["dense_shapes"].list.shape, tf)
    return found


def known_words(graph: Any, folder: Path, tf: Any) -> Sequence[str]:
    """Return the words of a model's vocabularies: lines of its text assets, and string constants of its graph.

    Args:
        graph: TensorFlow's ``GraphDef``.
        folder: The SavedModel.
        tf: The module ``tensorflow``.
    """
    words: dict[str, None] = {}
    for path in sorted((folder / "assets").glob("*")):
        if path.is_file() and path.stat().st_size <= _LARGEST_FILE:
            words |= dict.fromkeys(_plain(path.read_bytes().splitlines()))
    for nodes in _bodies(graph):
        for node in nodes:
            if node.op == "Const" and node.attr["dtype"].type == tf.string.as_datatype_enum:
                values = tf.make_ndarray(node.attr["value"].tensor).ravel().tolist()
                if len(values) >= _FEWEST_WORDS:
                    words |= dict.fromkeys(_plain(values))
    return list(words)[:_MOST_WORDS]


def _plain(lines: Sequence[bytes]) -> Iterator[str]:
    """Yield the lines that consist of a single word: printable text without spaces."""
    for line in lines:
        text = line.decode(errors="replace")
        if 0 < len(text) <= _LONGEST_WORD and text.isprintable() and " " not in text and "\ufffd" not in text:
            yield text


def _bodies(graph: Any) -> Iterator[Sequence[Any]]:
    yield graph.node
    yield from (function.node_def for function in graph.library.function)


def _keys(inputs: Sequence[str], by_name: Mapping[str, Any], tf: Any) -> list[bytes]:
    """Return the strings of constant inputs. Computed inputs are ignored."""
    keys: list[bytes] = []
    for name in inputs:
        node = by_name.get(name.split(":")[0])
        while node is not None and node.op == "Identity":
            node = by_name.get(node.input[0].split(":")[0])
        if node is not None and node.op == "Const":
            keys += tf.make_ndarray(node.attr["value"].tensor).ravel().tolist()
    return keys


def _features(keys: Sequence[bytes], types: Sequence[int], shapes: Sequence[Any], tf: Any) -> Mapping[str, Feature]:
    counts = [math.prod(max(dim.size, 1) for dim in shape.dim) for shape in shapes] or [1] * len(keys)
    return {
        key.decode(errors="replace"): Feature(tf.dtypes.as_dtype(kind).name, count)
        for key, kind, count in zip(keys, types, counts, strict=False)
    }
