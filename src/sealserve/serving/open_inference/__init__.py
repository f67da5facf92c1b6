"""The Open Inference Protocol (version 2), over gRPC and REST.

It is the protocol of KServe, Triton and MLServer. TensorFlow Serving does not have it. Requests become the same calls
of a model as requests of TensorFlow Serving's API, with the same checks and limits.

Source: kserve/open-inference-protocol d49cc23, ``specification/protocol/`` (``inference_grpc.md``,
``open_inference_grpc.proto``, ``inference_rest.md``); triton-inference-server/server, ``docs/protocol/``
``extension_binary_data.md`` (binary tensors over REST).
"""
