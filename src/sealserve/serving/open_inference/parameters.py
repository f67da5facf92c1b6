"""The parameters of requests, inputs and outputs.

The protocol defines no parameter. This server reads the parameters of the binary extension, and ``signature_name``. It
refuses parameters of other extensions that change the meaning of the answer. It ignores further parameters, because
clients add hints for other servers, such as ``content_type``.

Source: triton-inference-server/server, ``docs/protocol/``: ``extension_binary_data.md``,
``extension_shared_memory.md``, ``extension_classification.md``, ``extension_sequence.md``.
"""

from collections.abc import Mapping
from typing import Final

from sealserve.serving.request_errors import RequestCode

Value = bool | int | float | str | None
Parameters = Mapping[str, Value]

SIGNATURE_NAME: Final = "signature_name"
"""The parameter of a request that selects another signature than the default signature."""
BINARY_DATA: Final = "binary_data"
BINARY_DATA_OUTPUT: Final = "binary_data_output"
BINARY_DATA_SIZE: Final = "binary_data_size"

_REFUSED: Final = {
    "shared_memory_region": "a client cannot share memory with an enclave: send the tensor in the request",
    "shared_memory_byte_size": "a client cannot share memory with an enclave: send the tensor in the request",
    "shared_memory_offset": "a client cannot share memory with an enclave: send the tensor in the request",
    "classification": "the server returns the tensors of the model: compute the classes from them",
    "sequence_id": "models have no state between requests",
    "sequence_start": "models have no state between requests",
    "sequence_end": "models have no state between requests",
}


def check(parameters: Parameters, where: str) -> None:
    """Check that no parameter belongs to an extension that the server does not have.

    Args:
        parameters: The parameters.
        where: Their place, for the error.

    Raises:
        RequestError: `request.open-inference-parameter`: The server does not support a parameter.
    """
    for name in parameters:
        reason = _REFUSED.get(name)
        if reason is not None:
            raise RequestCode.OPEN_INFERENCE_PARAMETER.error(
                f"The parameter {name} of {where} is not supported: {reason}."
            )


def flag(parameters: Parameters, name: str, *, default: bool = False) -> bool:
    """Return a parameter that is true or false.

    Raises:
        RequestError: `request.open-inference-parameter`: It is neither.
    """
    value = parameters.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise RequestCode.OPEN_INFERENCE_PARAMETER.error(f"The parameter {name} is invalid: expected true or false.")
    return value


def signature_name(parameters: Parameters) -> str:
    """Return the signature's name, or an empty string for the default signature.

    Raises:
        RequestError: `request.open-inference-parameter`: The name is not a string.
    """
    value = parameters.get(SIGNATURE_NAME)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise RequestCode.OPEN_INFERENCE_PARAMETER.error(
            f"The parameter {SIGNATURE_NAME} is invalid: expected the name of a signature."
        )
    return value
