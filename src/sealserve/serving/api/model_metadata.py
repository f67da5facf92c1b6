"""GetModelMetadata: the signatures of a model.

Source: tensorflow/serving, ``servables/tensorflow/get_model_metadata_impl.cc``.
"""

from typing import Final

from sealserve.serving.request_errors import RequestCode
from sealserve.serving.runtime.protos import GetModelMetadataRequest, GetModelMetadataResponse, SignatureDefMap
from sealserve.serving.servables import Servables

_SIGNATURE_DEF: Final = "signature_def"


def get_model_metadata(servables: Servables, request: GetModelMetadataRequest) -> GetModelMetadataResponse:
    """Return the metadata that ``request`` asks for.

    Raises:
        RequestError: The request cannot be answered.
    """
    if not request.HasField("model_spec"):
        raise RequestCode.MODEL_SPEC.error("Missing ModelSpec")
    if not request.metadata_field:
        raise RequestCode.METADATA_FIELD.error("GetModelMetadataRequest must specify at least one metadata_field")
    for field in request.metadata_field:
        if field != _SIGNATURE_DEF:
            raise RequestCode.METADATA_FIELD.error(f"Metadata field {field} is not supported")
    with servables.use(request.model_spec) as servable:
        response = GetModelMetadataResponse()
        response.model_spec.name = servable.name
        response.model_spec.version.value = servable.version
        signatures = SignatureDefMap()
        for name, definition in servable.definitions.items():
            signatures.signature_def[name].CopyFrom(definition)
    response.metadata[_SIGNATURE_DEF].Pack(signatures)
    return response
