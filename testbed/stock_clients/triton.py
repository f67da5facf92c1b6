"""Calls a model server with tritonclient, over gRPC and HTTP, and prints what the client understood, as JSON.

    python triton.py GRPC_ADDRESS HTTP_ADDRESS

The model ``m`` is the one of ``tests/harness/model_server.py``.
"""

import json
import sys
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException


def calls(package: Any, client: Any, **form: Any) -> dict[str, Any]:
    """Make all calls with one of the two clients.

    Args:
        package: ``tritonclient.grpc`` or ``tritonclient.http``.
        client: The package's client.
        form: Further arguments of the methods that return documents.
    """

    def tensor(name: str, values: Any, datatype: str, **options: Any) -> Any:
        array = np.asarray(values)
        given = package.InferInput(name, list(array.shape), datatype)
        given.set_data_from_numpy(array, **options)
        return given

    def infer(*inputs: Any, signature: str = "", **options: Any) -> Any:
        parameters = {"signature_name": signature} if signature else None
        return client.infer("m", list(inputs), parameters=parameters, **options)

    def error(call: Any) -> str:
        try:
            call()
        except InferenceServerException as caught:
            return str(caught)
        return ""

    x = np.array([1.0, 2.0, 5.0], np.float32)
    metadata = client.get_model_metadata("m", **form)
    text = np.array([b"1.5"], np.object_).reshape([])
    return {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": [client.is_model_ready("m"), client.is_model_ready("m", "1")],
        "server": client.get_server_metadata(**form)["name"],
        "metadata": [metadata["name"], metadata["versions"], metadata["inputs"][0]],
        "default": infer(tensor("x", x, "FP32"), request_id="7").as_numpy("y").tolist(),
        "id": infer(tensor("x", x, "FP32"), request_id="7").get_response(**form)["id"],
        "version": infer(tensor("x", x, "FP32"), model_version="1").get_response(**form)["model_version"],
        "outputs": infer(tensor("x", x, "FP32"), outputs=[package.InferRequestedOutput("y")]).as_numpy("y").tolist(),
        "bytes": infer(tensor("text", text, "BYTES"), signature="number").as_numpy("number").tolist(),
        "unknown_model": error(lambda: client.infer("other", [tensor("x", x, "FP32")])),
        "unknown_input": error(lambda: infer(tensor("z", x, "FP32"))),
        "wrong_type": error(lambda: infer(tensor("x", x.astype(np.int32), "INT32"))),
        "shared_memory": error(lambda: infer(_shared(package))),
        "register": error(lambda: client.register_system_shared_memory("region", "/region", 64)),
    }


def _shared(package: Any) -> Any:
    given = package.InferInput("x", [3], "FP32")
    given.set_shared_memory("region", 12)
    return given


def main() -> None:
    """Print the results of both clients."""
    grpc_address, http_address = sys.argv[1:3]
    with tritonclient.grpc.InferenceServerClient(grpc_address) as client:
        results = {"grpc": calls(tritonclient.grpc, client, as_json=True)}
    with tritonclient.http.InferenceServerClient(http_address) as client:
        http = results["http"] = calls(tritonclient.http, client)
        given = tritonclient.http.InferInput("x", [3], "FP32")
        given.set_data_from_numpy(np.array([1.0, 2.0, 5.0], np.float32), binary_data=False)
        output = tritonclient.http.InferRequestedOutput("y", binary_data=False)
        http["json"] = client.infer("m", [given], outputs=[output]).get_response()["outputs"]
        http["gzip"] = client.infer("m", [given], request_compression_algorithm="gzip").as_numpy("y").tolist()
    print(json.dumps(results))


if __name__ == "__main__":
    main()
