"""JSON to lists of ``tensorflow.Example`` and back, for the REST API's ``:classify`` and ``:regress``.

Source: tensorflow/serving, ``util/json_tensor.cc`` (``FillClassifyRegressRequestFromJson``,
``MakeJsonFromClassificationResult``, ``MakeJsonFromRegressionResult``).
"""

from collections.abc import Mapping
from typing import Any, Final

from sealserve.serving.http.json_text import (
    JsonFormError,
    decimals,
    decode_base64,
    encode_text,
    is_base64,
    json_type,
    quote,
)
from sealserve.serving.runtime.protos import ClassificationResult, Input, RegressionResult

_CONTEXT: Final = "context"
_EXAMPLES: Final = "examples"
_LEAST, _GREATEST, _UNSIGNED = -(2**63), 2**63 - 1, 2**64 - 1


def fill_examples(document: Mapping[str, Any], target: Input) -> None:
    """Write the examples of ``document``, and their context, into ``target``.

    Raises:
        JsonFormError: It has none, or they are not examples.
    """
    has_context = _CONTEXT in document
    if has_context:
        _fill_example(document[_CONTEXT], target.example_list_with_context.context)
    if _EXAMPLES not in document:
        raise JsonFormError(
            "JSON Value: <hidden> When method is classify, key 'examples' is expected and was not found"
        )
    examples = document[_EXAMPLES]
    if not isinstance(examples, list):
        raise JsonFormError("JSON Value: <hidden> Expecting 'examples' value to be an list/array")
    if not examples:
        raise JsonFormError("JSON Value: <hidden> 'examples' value is an empty array")
    found = target.example_list_with_context.examples if has_context else target.example_list.examples
    for example in examples:
        _fill_example(example, found.add())


def _fill_example(value: Any, example: Any) -> None:
    if not isinstance(value, dict):
        raise JsonFormError(f"Example must be JSON object but got JSON {json_type(value)}")
    for name, content in value.items():
        encode_text(name)
        feature = example.features.feature[name]
        for element in content if isinstance(content, list) else [content]:
            _add(feature, name, element)


def _add(feature: Any, name: str, value: Any) -> None:
    if value is None or isinstance(value, list) or (isinstance(value, dict) and not is_base64(value)):
        raise JsonFormError(f"Feature: {name} has element with unexpected JSON type: {json_type(value)}")
    if isinstance(value, (str, dict)):
        _check_kind(feature, name, "bytes_list")
        feature.bytes_list.value.append(encode_text(value) if isinstance(value, str) else decode_base64(value))
    elif isinstance(value, float) or not _LEAST <= value <= _UNSIGNED:
        _check_kind(feature, name, "float_list")
        feature.float_list.value.append(float(value))
    else:
        _check_kind(feature, name, "int64_list")
        if value > _GREATEST:
            raise JsonFormError(f"Feature: {name} has uint64_t element. Only int64_t is supported.")
        feature.int64_list.value.append(int(value))


def _check_kind(feature: Any, name: str, kind: str) -> None:
    former = feature.WhichOneof("kind")
    if former not in (None, kind):
        raise JsonFormError(
            f"Unexpected element type in feature: {name} expecting type: {former.removesuffix('_list')}"
        )


def render_classes(result: ClassificationResult) -> bytes:
    """Return labels and scores, a list for each example: ``{"results": [[["label", 0.5], ...], ...]}``."""
    rows = []
    for row in result.classifications:
        scores = decimals([entry.score for entry in row.classes], single=True)
        pairs = (f"[{quote(entry.label)}, {score}]" for entry, score in zip(row.classes, scores, strict=True))
        rows.append("[" + ", ".join(pairs) + "]")
    return f'{{\n    "results": [{", ".join(rows)}\n    ]\n}}'.encode()


def render_values(result: RegressionResult) -> bytes:
    """Return a value for each example: ``{"results": [3.0, ...]}``."""
    values = decimals([entry.value for entry in result.regressions], single=True)
    return f'{{\n    "results": [{", ".join(values)}]\n}}'.encode()
