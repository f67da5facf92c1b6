"""The message types of TensorFlow and TensorFlow Serving, from their own packages, without TensorFlow's Python half.

``import tensorflow`` takes seconds (many more inside an enclave) and some 200 MB, and the server needs nothing of it:
it calls the library below (`libtensorflow`). The generated modules import only protobuf and each
other, but Python runs a package's ``__init__`` before its modules. So a stand-in for the package ``tensorflow``, which
only knows where the modules are, is there while they are imported, and not afterwards: whoever imports ``tensorflow``
later gets the real one.
"""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from sealserve.errors import UnavailableError


class TensorFlowMissingError(UnavailableError):
    """TensorFlow, or TensorFlow Serving's message types, are not installed."""

    code = "server.tensorflow-missing"

    def __init__(self, package: str) -> None:
        super().__init__(
            f"The Python package {package} is not installed.",
            hint="Run `pip install 'sealserve[server]'`, or `make setup` in a checkout.",
        )


def tensorflow_folder() -> Path:
    """Return the folder of the installed package ``tensorflow``, which is not imported for it.

    Raises:
        TensorFlowMissingError: There is none.
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
        from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse
        from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog
        from tensorflow_serving.apis.regression_pb2 import RegressionRequest, RegressionResponse, RegressionResult
        from tensorflow_serving.config.file_system_storage_path_source_pb2 import FileSystemStoragePathSourceConfig
        from tensorflow_serving.config.model_server_config_pb2 import ModelConfig, ModelServerConfig
except ImportError as error:
    raise TensorFlowMissingError("tensorflow-serving-api") from error

VersionPolicy = FileSystemStoragePathSourceConfig.ServableVersionPolicy

__all__ = [
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
