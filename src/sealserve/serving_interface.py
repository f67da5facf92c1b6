"""Names in the interface of a model server, which the server, its clients, and monitoring must agree on.

All but `INSTANCE_HEADER` are TensorFlow Serving's or TensorFlow's, so that both servers look the same from outside.
"""

from typing import Final

DEFAULT_SIGNATURE: Final = "serving_default"
"""TensorFlow's ``kDefaultServingSignatureDefKey`` (``tensorflow/cc/saved_model/signature_constants.h``)."""

INTERNAL_SIGNATURES: Final = frozenset({"__saved_model_init_op", "__saved_model_train_op"})
"""Names under which a SavedModel keeps operations of its own; clients cannot call them.

Source: tensorflow/tensorflow, ``tensorflow/python/saved_model/constants.py``.
"""

METHODS: Final = ("tensorflow/serving/predict", "tensorflow/serving/classify", "tensorflow/serving/regress")
"""Method names of signatures (``tensorflow/cc/saved_model/signature_constants.h``)."""

METRICS_PATH: Final = "/monitoring/prometheus/metrics"
"""Where the metrics are unless a monitoring configuration says otherwise (``util/prometheus_exporter.h``)."""

METRICS_PREFIX: Final = ":tensorflow:serving:"
"""What the names of TensorFlow Serving's metrics begin with."""

INSTANCE_HEADER: Final = "x-sealserve-instance"
"""Trailing metadata of each answer over gRPC: a random name of the process that answered, new at each start.

Behind a proxy that balances connections, a client can tell replicas apart by it.
"""
