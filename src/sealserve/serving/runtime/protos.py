"""The message types of TensorFlow and TensorFlow Serving, imported without TensorFlow's Python API.

``import tensorflow`` takes seconds (much longer inside an enclave) and about 200 MB, and the server does not need it:
it calls the shared library (`libtensorflow`). The generated modules import only protobuf and each other, but Python
runs a package's ``__init__`` before its modules. So a stand-in for the package ``tensorflow``, which contains only the
path of the modules, is registered during the imports and removed afterwards. A later ``import tensorflow`` gets the
real package.
"""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from sealserve.errors import UnavailableError


class TensorFlowMissingError(UnavailableError):
    """TensorFlow, or the package with TensorFlow Serving's message types, is not installed."""

    code = "server.tensorflow-missing"

    def __init__(self, package: str) -> None:
        super().__init__(
            f"The Python package {package} is not installed.",
            hint="Run `pip install 'sealserve[server]'`, or `make setup` in a checkout.",
        )


def tensorflow_folder() -> Path:
    """Return the folder of the installed package ``tensorflow``, without importing it.

    Raises:
        TensorFlowMissingError: The package is not installed.
    """
    loaded = sys.modules.get("tensorflow")
    if loaded is not None and loaded.__file__:
        return Path(loaded.__file__).parent
    spec = importlib.util.find_spec("tensorflow")
    if spec is None or not spec.submodule_search_locations:
        raise TensorFlowMissingError("tensorflow")
    return Path(spec.submodule_search_locations[0])


@contextmanager
def _stand_in() -> Iterator[None]:
    if "tensorflow" in sys.modules:
        yield
        return
    package = ModuleType("tensorflow")
    package.__path__ = [str(tensorflow_folder())]
    sys.modules["tensorflow"] = package
    try:
        yield
    finally:
        del sys.modules["tensorflow"]


try:
    with _stand_in():
        from tensorflow.core.framework.graph_pb2 import GraphDef
        from tensorflow.core.framework.node_def_pb2 import NodeDef
        from tensorflow.core.framework.tensor_pb2 import TensorProto
        from tensorflow.core.framework.types_pb2 import DataType
        from tensorflow.core.protobuf.config_pb2 import ConfigProto, RunOptions
        from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef, SignatureDef, TensorInfo
        from tensorflow_serving.apis.classification_pb2 import (
            ClassificationRequest,
            ClassificationResponse,
            ClassificationResult,
        )
        from tensorflow_serving.apis.get_model_metadata_pb2 import (
            GetModelMetadataRequest,
            GetModelMetadataResponse,
            SignatureDefMap,
        )
        from tensorflow_serving.apis.get_model_status_pb2 import (
            GetModelStatusRequest,
            GetModelStatusResponse,
            ModelVersionStatus,
        )
        from tensorflow_serving.apis.inference_pb2 import MultiInferenceRequest, MultiInferenceResponse
        from tensorflow_serving.apis.input_pb2 import Input
        from tensorflow_serving.apis.model_management_pb2 import ReloadConfigRequest, ReloadConfigResponse
        from tensorflow_serving.apis.model_pb2 import ModelSpec
        from tensorflow_serving.apis.model_service_pb2 import DESCRIPTOR as MODEL_SERVICE_FILE
        from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse
        from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog
        from tensorflow_serving.apis.prediction_service_pb2 import DESCRIPTOR as PREDICTION_SERVICE_FILE
        from tensorflow_serving.apis.regression_pb2 import RegressionRequest, RegressionResponse, RegressionResult
        from tensorflow_serving.config.file_system_storage_path_source_pb2 import FileSystemStoragePathSourceConfig
        from tensorflow_serving.config.model_server_config_pb2 import ModelConfig, ModelServerConfig
except ImportError as error:
    raise TensorFlowMissingError("tensorflow-serving-api") from error

VersionPolicy = FileSystemStoragePathSourceConfig.ServableVersionPolicy

__all__ = [
    "MODEL_SERVICE_FILE",
    "PREDICTION_SERVICE_FILE",
    "ClassificationRequest",
    "ClassificationResponse",
    "ClassificationResult",
    "ConfigProto",
    "DataType",
    "GetModelMetadataRequest",
    "GetModelMetadataResponse",
    "GetModelStatusRequest",
    "GetModelStatusResponse",
    "GraphDef",
    "Input",
    "MetaGraphDef",
    "ModelConfig",
    "ModelServerConfig",
    "ModelSpec",
    "ModelVersionStatus",
    "MultiInferenceRequest",
    "MultiInferenceResponse",
    "NodeDef",
    "PredictRequest",
    "PredictResponse",
    "PredictionLog",
    "RegressionRequest",
    "RegressionResponse",
    "RegressionResult",
    "ReloadConfigRequest",
    "ReloadConfigResponse",
    "RunOptions",
    "SignatureDef",
    "SignatureDefMap",
    "TensorInfo",
    "TensorProto",
    "VersionPolicy",
    "tensorflow_folder",
]
