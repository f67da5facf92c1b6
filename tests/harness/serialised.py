"""The server's methods as clients call them: bytes in, bytes out."""

from typing import Any

from sealserve.serving.api import examples, model_metadata, model_status
from sealserve.serving.api import predict as prediction
from sealserve.serving.api.examples import Call
from sealserve.serving.runtime.protos import (
    ClassificationRequest,
    GetModelMetadataRequest,
    GetModelStatusRequest,
    MultiInferenceRequest,
    PredictRequest,
    RegressionRequest,
)
from sealserve.serving.servables import Servables
from sealserve.serving.wire.rpc import Answer, parsed


def predict(servables: Servables, content: bytes, *, deadline: float | None, **settings: Any) -> bytes:
    def answer(request: PredictRequest, deadline: float | None) -> Any:
        return prediction.predict(servables, request, deadline=deadline, **settings)

    return parsed(PredictRequest, answer)(content, deadline)


def answer_classify(servables: Servables, content: bytes, call: Call) -> bytes:
    return _ask(ClassificationRequest, lambda request, _: examples.answer_classify(servables, request, call), content)


def answer_regress(servables: Servables, content: bytes, call: Call) -> bytes:
    return _ask(RegressionRequest, lambda request, _: examples.answer_regress(servables, request, call), content)


def answer_multi_inference(servables: Servables, content: bytes, call: Call) -> bytes:
    answer: Answer = lambda request, _: examples.answer_multi_inference(servables, request, call)  # noqa: E731  # typed
    return _ask(MultiInferenceRequest, answer, content)


def get_model_metadata(servables: Servables, content: bytes) -> bytes:
    answer: Answer = lambda request, _: model_metadata.get_model_metadata(servables, request)  # noqa: E731  # typed
    return _ask(GetModelMetadataRequest, answer, content)


def get_model_status(servables: Servables, content: bytes) -> bytes:
    answer: Answer = lambda request, _: model_status.get_model_status(servables, request)  # noqa: E731  # typed
    return _ask(GetModelStatusRequest, answer, content)


def _ask(kind: Any, answer: Answer, content: bytes) -> bytes:
    return parsed(kind, answer)(content, None)
