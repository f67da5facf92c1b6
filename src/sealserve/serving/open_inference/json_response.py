"""An inference response in JSON, with binary tensors after it.

An answer is written in pieces, which limits how many values are Python objects or strings at the same time.
"""

import io
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from sealserve.serving.http.json_text import decimals, quote
from sealserve.serving.open_inference.datatypes import BOOL, BYTES
from sealserve.serving.open_inference.service import Inference, Output
from sealserve.serving.request_errors import RequestCode

_PIECE: Final = 8192
"""Number of elements that are written at a time."""


def render(inference: Inference, identifier: str | None, is_binary: Callable[[str], bool]) -> tuple[bytes, int | None]:
    """Return the body of a response, and the size of its JSON if binary tensors follow, else None.

    Args:
        inference: The result.
        identifier: The client's identifier of the request, or None.
        is_binary: Returns whether an output, by its name, is binary data.

    Raises:
        RequestError: `request.open-inference-form`: JSON cannot represent an output, which must be binary data.
    """
    body = io.BytesIO()
    names = {"model_name": inference.model, "model_version": inference.version, "id": identifier}
    members = ",".join(f'"{name}":{quote(value)}' for name, value in names.items() if value is not None)
    _write(body, f'{{{members},"outputs":[')
    raw: list[bytes] = []
    for number, output in enumerate(inference.outputs):
        shape = ",".join(map(str, output.tensor.shape))
        _write(body, f'{"," if number else ""}{{"name":{quote(output.name)},"datatype":"{output.datatype.name}"')
        _write(body, f',"shape":[{shape}],')
        if is_binary(output.name):
            raw.append(output.raw())
            _write(body, f'"parameters":{{"binary_data_size":{len(raw[-1])}}}}}')
        else:
            _write(body, '"data":[')
            for piece in _pieces(output):
                _write(body, piece)
            _write(body, "]}")
    _write(body, "]}")
    size = body.tell()
    body.writelines(raw)
    return body.getvalue(), size if raw else None


def _write(body: io.BytesIO, text: str) -> None:
    body.write(text.encode("utf-8", "surrogateescape"))


def _pieces(output: Output) -> Iterator[str]:
    """Yield the elements as JSON, separated by commas."""
    values: Sequence[Any]
    if output.datatype.name == BYTES:
        values = output.tensor.strings()
    elif output.datatype.code:
        values = array(output.datatype.code, output.tensor.content())
    else:
        raise _binary_only(output, f"JSON cannot represent {output.datatype.name}")
    for start in range(0, len(values), _PIECE):
        yield ("," if start else "") + ",".join(_texts(output, values[start : start + _PIECE]))


def _texts(output: Output, values: Sequence[Any]) -> list[str]:
    if output.datatype.name == BYTES:
        try:
            return [quote(value.decode()) for value in values]
        except UnicodeDecodeError:
            raise _binary_only(output, "its bytes are not UTF-8") from None
    if output.datatype.name == BOOL:
        return ["true" if value else "false" for value in values]
    code = output.datatype.code
    return decimals(values, single=code == "f") if code in {"f", "d"} else list(map(str, values))


def _binary_only(output: Output, reason: str) -> Exception:
    return RequestCode.OPEN_INFERENCE_FORM.error(
        f"The output {output.name!r} cannot be written in JSON: {reason}. Request it as binary data, with the parameter"
        " binary_data of the output, or binary_data_output of the request."
    )
