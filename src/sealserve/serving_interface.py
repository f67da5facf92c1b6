"""Names in a model server's interface that the server, its clients and monitoring must agree on.

The names before `INSTANCE_HEADER` are TensorFlow's or TensorFlow Serving's, so that both servers have the same
interface.
"""

from typing import Final

DEFAULT_SIGNATURE: Final = "serving_default"
"""TensorFlow's ``kDefaultServingSignatureDefKey`` (``tensorflow/cc/saved_model/signature_constants.h``)."""

INTERNAL_SIGNATURES: Final = frozenset({"__saved_model_init_op", "__saved_model_train_op"})
"""Names of internal operations in a SavedModel, which clients cannot call.

Source: tensorflow/tensorflow, ``tensorflow/python/saved_model/constants.py``.
"""

METHODS: Final = ("tensorflow/serving/predict", "tensorflow/serving/classify", "tensorflow/serving/regress")
"""Method names of signatures (``tensorflow/cc/saved_model/signature_constants.h``)."""

WARMUP_REQUESTS: Final = "assets.extra/tf_serving_warmup_requests"
"""The file of warm-up requests in a version's folder (``servables/tensorflow/saved_model_warmup_util.cc``)."""

METRICS_PATH: Final = "/monitoring/prometheus/metrics"
"""The default path of the metrics, unless a monitoring configuration changes it (``util/prometheus_exporter.h``)."""

METRICS_PREFIX: Final = ":tensorflow:serving:"
"""The prefix of the names of TensorFlow Serving's metrics."""

INSTANCE_HEADER: Final = "x-sealserve-instance"
"""Trailing metadata of each gRPC response: a random id of the serving process, new at each start.

Behind a load-balancing proxy, a client can distinguish replicas by this id.
"""

BINARY_HEADER: Final = "Inference-Header-Content-Length"
"""The header with the size of the JSON before binary tensors, in the Open Inference Protocol.

Source: triton-inference-server/server, ``docs/protocol/extension_binary_data.md``.
"""

RECEIPT_HEADER: Final = "sealserve-receipt"
"""Metadata or header with which a request asks for a receipt, and trailing metadata or header of the receipt."""

RECEIPT_WANTED: Final = "1"
"""The value of `RECEIPT_HEADER` in a request."""

EVIDENCE_METHOD: Final = "/sealserve.attested.v1.Evidence/GetEvidence"
"""The gRPC method of the evidence (``attested/evidence_service.proto``)."""

EVIDENCE_PATH: Final = "/.well-known/sealserve/evidence"
"""The HTTP resource of the evidence."""

EVIDENCE_PARAMETER: Final = "nonce"
"""The query parameter with the nonce in base64url."""

OPTIMIZATION_FILE: Final = "assets.extra/sealserve_optimization.json"
"""The record of an optimization, in a SavedModel that `sealserve model optimize` wrote.

``assets.extra`` is TensorFlow's folder for files of other programs (``tensorflow/cc/saved_model/constants.h``). The
server skips passes of TensorFlow's graph optimizer that the optimization made.
"""
