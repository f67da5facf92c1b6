"""The APIs of a real server, with clients of other projects: Triton, KServe, and gRPC reflection."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.harness.model_server import Process, free_port
from tests.harness.stock_clients import run

pytestmark = [pytest.mark.tensorflow, pytest.mark.integration]

Addresses = tuple[str, str]


@pytest.fixture(scope="module")
def addresses(model: Path) -> Iterator[Addresses]:
    """The gRPC address and the REST address of a server without TLS."""
    rest = free_port()
    process = Process(
        [
            *(f"--model_base_path={model}", "--port=0", f"--rest_api_port={rest}"),
            *("--dangerous_plaintext", "--dangerous_plaintext_rest", "--rest_api_enable_gzip_responses"),
        ]
    )
    yield f"127.0.0.1:{process.port()}", f"127.0.0.1:{rest}"
    process.close()


def test_tritonclient_understands_the_server(addresses: Addresses) -> None:
    results = run("triton.py", *addresses)
    for protocol, found in results.items():
        assert (found["live"], found["ready"], found["model_ready"]) == (True, True, [True, True])
        assert (found["server"], found["id"], found["version"]) == ("sealserve", "7", "1")
        name, versions, tensor = found["metadata"]
        assert (name, versions, tensor["name"], tensor["datatype"]) == ("m", ["1"], "x", "FP32")
        assert [int(size) for size in tensor["shape"]] == [-1]
        assert found["default"] == found["outputs"] == [2.5, 3.0, 4.5]
        assert found["bytes"] == 1.5
        missing_status = "[StatusCode.NOT_FOUND]" if protocol == "grpc" else "[404]"
        invalid = "[StatusCode.INVALID_ARGUMENT]" if protocol == "grpc" else "[400]"
        assert found["unknown_model"] == f"{missing_status} Servable not found for request: Latest(other)"
        assert found["unknown_input"].startswith(f"{invalid} Inputs contains invalid name.")
        assert found["wrong_type"].startswith(f"{invalid} Expects arg[0] to be float but int32 is provided")
        assert "a client cannot share memory with an enclave" in found["shared_memory"]
    assert results["http"]["json"] == [{"name": "y", "datatype": "FP32", "shape": [3], "data": [2.5, 3.0, 4.5]}]
    assert results["http"]["gzip"] == [2.5, 3.0, 4.5]
    assert results["grpc"]["register"] == "[StatusCode.UNIMPLEMENTED] The method does not exist."
    assert results["http"]["register"].startswith(
        "[404] The Open Inference Protocol does not have POST /v2/systemshared"
    )


def test_kserves_clients_understand_the_server(addresses: Addresses) -> None:
    grpc_address, rest_address = addresses
    results = run("kserve_client.py", grpc_address, f"http://{rest_address}")
    for protocol, found in results.items():
        assert (found["live"], found["ready"], found["model_ready"]) == (True, True, True)
        version = "1" if protocol == "grpc" else None  # KServe's REST client does not read it
        assert found["binary"] == found["json"] == ["m", version, "7", [2.5, 3.0, 4.5]]
        assert "Inputs contains invalid name" in found["unknown_input"]
    assert "The server does not have the model other." in results["grpc"]["unknown_model"]
    assert results["rest"]["unknown_model"] == "False"  # KServe's REST client reads only the status


def test_the_client_of_grpc_reflection_reads_the_whole_schema(addresses: Addresses) -> None:
    found = run("reflection.py", addresses[0])
    assert set(found["services"]) == {
        *("grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"),
        *("inference.GRPCInferenceService", "tensorflow.serving.ModelService", "tensorflow.serving.PredictionService"),
    }
    assert found["services"]["tensorflow.serving.PredictionService"] == [
        *("Classify", "Regress", "Predict", "MultiInference", "GetModelMetadata")
    ]
    assert {"tensorflow/core/framework/tensor.proto", "google/protobuf/any.proto"} <= set(found["files"])
    assert found["answer"] == [2.5, 3.0, 4.5]
