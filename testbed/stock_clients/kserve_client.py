"""Calls a model server with KServe's clients, over gRPC and REST, and prints what they understood, as JSON.

    python kserve_client.py GRPC_ADDRESS REST_URL

The model ``m`` is the one of ``tests/harness/model_server.py``.
"""

import asyncio
import json
import sys
from typing import Any

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig


def request(*, is_binary: bool, name: str = "x") -> InferRequest:
    """Return a request for half_plus_two."""
    given = InferInput(name, [3], "FP32")
    given.set_data_from_numpy(np.array([1.0, 2.0, 5.0], np.float32), binary_data=is_binary)
    parameters = {"binary_data_output": True} if is_binary else None
    return InferRequest(model_name="m", infer_inputs=[given], request_id="7", parameters=parameters)


def understood(response: Any) -> list[Any]:
    """Return what a client reads from a response."""
    return [response.model_name, response.model_version, response.id, response.outputs[0].as_numpy().tolist()]


async def outcome(call: Any) -> str:
    """Return the error of a call, or its result."""
    try:
        return str(await call)
    except Exception as caught:  # noqa: BLE001  # the clients have an exception for each transport
        return str(caught)


async def grpc_calls(address: str) -> dict[str, Any]:
    """Make all calls over gRPC."""
    async with InferenceGRPCClient(address) as client:
        return {
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "model_ready": await client.is_model_ready("m"),
            "binary": understood(await client.infer(request(is_binary=True))),
            "json": understood(await client.infer(request(is_binary=False))),
            "unknown_input": await outcome(client.infer(request(is_binary=True, name="z"))),
            "unknown_model": await outcome(client.is_model_ready("other")),
        }


async def rest_calls(url: str) -> dict[str, Any]:
    """Make all calls over REST."""
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        return {
            "live": await client.is_server_live(url),
            "ready": await client.is_server_ready(url),
            "model_ready": await client.is_model_ready(url, "m"),
            "binary": understood(await client.infer(url, request(is_binary=True), model_name="m")),
            "json": understood(await client.infer(url, request(is_binary=False), model_name="m")),
            "unknown_input": await outcome(client.infer(url, request(is_binary=True, name="z"), model_name="m")),
            "unknown_model": await outcome(client.is_model_ready(url, "other")),
        }


async def main() -> None:
    """Print the results of both clients."""
    grpc_address, url = sys.argv[1:3]
    print(json.dumps({"grpc": await grpc_calls(grpc_address), "rest": await rest_calls(url)}))


if __name__ == "__main__":
    asyncio.run(main())
