"""A complete request as JSON, in the two forms of TensorFlow Serving's REST API.

Source: https://www.tensorflow.org/tfx/serving/api_rest, "Specifying input tensors in row format" and "in column
format".
"""

from typing import Any, Final

from sealserve.client.credentials import printable
from sealserve.client.examples import bytes_from_json
from sealserve.client.predict import Signature

ROWS: Final = "instances"
COLUMNS: Final = "inputs"
_SIGNATURE: Final = "signature_name"


def columns_of(body: object, signature: Signature, signature_name: str) -> dict[str, Any]:
    """Return the value of each input of a request, as parsed JSON.

    Args:
        body: ``{"instances": [...]}`` or ``{"inputs": ...}``, with or without ``"signature_name"``.
        signature: The signature that is called.
        signature_name: Name of this signature.

    Raises:
        ValueError: The body has another form, names an unknown input, or has rows with different inputs.
    """
    if not isinstance(body, dict) or len(body.keys() & {ROWS, COLUMNS}) != 1 or body.keys() - {
        ROWS, COLUMNS, _SIGNATURE
    }:  # fmt: skip
        raise ValueError(f'expected an object with either "{ROWS}" or "{COLUMNS}", and no other key')
    if (named := body.get(_SIGNATURE, signature_name)) != signature_name:
        raise ValueError(f"its signature_name is wrong: expected {signature_name!r}, got {printable(repr(named), 60)}")
    if ROWS in body:
        return _rows(body[ROWS], signature)
    value = body[COLUMNS]
    if isinstance(value, dict) and bytes_from_json(value) is None:
        return _known(value, signature, COLUMNS)
    return {_only(signature): value}


def _rows(rows: object, signature: Signature) -> dict[str, Any]:
    if not isinstance(rows, list) or not rows:
        raise ValueError(f'"{ROWS}" is not a list with at least one row')
    if not _is_by_name(rows[0], signature):
        return {_only(signature): rows}
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or row.keys() != rows[0].keys():
            raise ValueError(f"row {number} does not have the same inputs as row 0")
    _known(rows[0], signature, "row 0")
    return {name: [row[name] for row in rows] for name in rows[0]}


def _is_by_name(row: object, signature: Signature) -> bool:
    """Return whether a row is an object of inputs by name. Otherwise the row is the value of the only input.

    If the only input is a string, an object that does not contain an input's name is a ``tf.Example``.
    """
    if not isinstance(row, dict) or bytes_from_json(row) is not None:
        return False
    is_string = [spec.dtype for spec in signature.inputs.values()] == ["string"]
    return not is_string or bool(row.keys() & signature.inputs.keys())


def _known(values: dict[str, Any], signature: Signature, where: str) -> dict[str, Any]:
    unknown = [name for name in values if name not in signature.inputs]
    if unknown:
        raise ValueError(
            f"{where} has the unknown input {printable(repr(unknown[0]), 60)}; the inputs of the signature are "
            f"{printable(', '.join(signature.inputs)) or 'none'}"
        )
    return values


def _only(signature: Signature) -> str:
    if len(signature.inputs) != 1:
        raise ValueError(
            f"the signature has several inputs ({printable(', '.join(signature.inputs))}), so each value needs a name"
        )
    return next(iter(signature.inputs))
