"""Writes the Open Inference Protocol request for both peers, with the message classes that they contain.

python infer_request.py FILE
"""

import sys
from importlib import import_module
from pathlib import Path


def main() -> None:
    """Write the request to the file."""
    try:
        messages = import_module("kserve.protocol.grpc.grpc_predict_v2_pb2")
    except ImportError:
        messages = import_module("mlserver.grpc.dataplane_pb2")
    request = messages.ModelInferRequest(model_name="m", id="1")
    tensor = request.inputs.add(name="x", datatype="FP32", shape=[3])
    tensor.contents.fp32_contents.extend([1.0, 2.0, 5.0])
    Path(sys.argv[1]).write_bytes(request.SerializeToString())


if __name__ == "__main__":
    main()
