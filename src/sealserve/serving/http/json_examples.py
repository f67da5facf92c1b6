"""Conversion between JSON and lists of ``tensorflow.Example``, for the REST API's ``:classify`` and ``:regress``.

Source: tensorflow/serving, ``util/json_tensor.cc`` (``FillClassifyRegressRequestFromJson``,
``MakeJsonFromClassificationResult``, ``MakeJsonFromRegressionResult``).
"""

from typing import Any, Final

from sealserve.serving.http.json_errors import HIDDEN_VALUE, JsonFormError
from sealserve.serving.http.json_nodes import Base64, JsonObject, Numbers, json_type
from sealserve.serving.http.json_reader import CONTEXT, EXAMPLES
from sealserve.serving.http.json_text import decimals, quote
from sealserve.serving.runtime.protos import ClassificationResult, Input, RegressionResult

_CONTEXT: Final = CONTEXT.encode()
_EXAMPLES: Final = EXAMPLES.encode()
_GREATEST_SIGNED: Final = 2**63 - 1


def fill_examples(document: JsonObject, target: Input) -> None:
    """Write the examples of ``document``, and their context, into ``target``.

    Raises:
        JsonFormError: The document has no examples, or they are not valid examples.
    """
    has_context = _CONTEXT in document
    if has_context:
        _fill_example(document[_CONTEXT], target.example_list_with_context.context)
    if _EXAMPLES not in document:
        raise JsonFormError(f"{HIDDEN_VALUE} When method is classify, key '{EXAMPLES}' is expected and was not found")
    examples = document[_EXAMPLES]
    if not isinstance(examples, list | Numbers):
        raise JsonFormError(f"{HIDDEN_VALUE} Expecting '{EXAMPLES}' value to be an list/array")
    if isinstance(examples, list) and not examples:
        raise JsonFormError(f"{HIDDEN_VALUE} '{EXAMPLES}' value is an empty array")
    found = target.example_list_with_context.examples if has_context else target.example_list.examples
    for example in examples if isinstance(examples, list) else _first(examples):
        _fill_example(example, found.add())


def _first(numbers: Numbers) -> list[Any]:
    """Return the first element of a list of numbers (or of nested lists), which is enough to name its type."""
    return [[]] if len(numbers.shape) > 1 else [0]


def _fill_example(value: Any, example: Any) -> None:
    if not isinstance(value, JsonObject | Base64):
        raise JsonFormError(f"Example must be JSON object but got JSON {json_type(value)}")
    if isinstance(value, Base64):
        raise JsonFormError("Example must be an object of features, but it is a base64 object.")
    for raw, content in value.members:
        name = _name(raw)
        feature = example.features.feature[name]
        feature.Clear()  # if a name is repeated, the last one counts
        if isinstance(content, Numbers):
            _add_numbers(feature, name, content)
            continue
        for element in content if isinstance(content, list) else [content]:
            _add(feature, name, element)


def _name(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise JsonFormError("The name of a feature is not valid UTF-8.") from error


def _add_numbers(feature: Any, name: str, numbers: Numbers) -> None:
    if len(numbers.shape) > 1:
        _add(feature, name, [])
    elif all(part.has_fractions and not part.whole for part in numbers.parts):
        for part in numbers.parts:
            feature.float_list.value.extend(part.values)
    else:
        for value in numbers:
            _add(feature, name, value)


def _add(feature: Any, name: str, value: Any) -> None:
    if value is None or isinstance(value, list | Numbers | JsonObject):
        raise JsonFormError(f"Feature: {name} has element with unexpected JSON type: {json_type(value)}")
    if isinstance(value, bytes | Base64):
        _check_kind(feature, name, "bytes_list")
        content = value if isinstance(value, bytes) else value.content
        if content is None:
            raise JsonFormError("Unable to base64 decode")
        feature.bytes_list.value.append(content)
    elif isinstance(value, float):
        _check_kind(feature, name, "float_list")
        feature.float_list.value.append(float(value))
    else:
        _check_kind(feature, name, "int64_list")
        if value > _GREATEST_SIGNED:
            raise JsonFormError(f"Feature: {name} has uint64_t element. Only int64_t is supported.")
        feature.int64_list.value.append(int(value))


def _check_kind(feature: Any, name: str, kind: str) -> None:
    former = feature.WhichOneof("kind")
    if former not in (None, kind):
        raise JsonFormError(
            f"Unexpected element type in feature: {name} expecting type: {former.removesuffix('_list')}"
        )


def render_classes(result: ClassificationResult) -> bytes:
    """Return labels and scores as a list for each example: ``{"results": [[["label", 0.5], ...], ...]}``."""
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
