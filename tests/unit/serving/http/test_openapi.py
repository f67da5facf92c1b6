"""The OpenAPI description of the REST API is valid, and matches the server's behavior."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from sealserve.serving.http.rest import Rest
from sealserve.serving.open_inference.rest import OpenInferenceRest
from sealserve.serving.open_inference.service import OpenInference
from sealserve.serving.servables import Servables
from sealserve.serving_interface import EVIDENCE_PATH

pytestmark = pytest.mark.tensorflow

FILE = Path(__file__).parents[4] / "docs" / "reference" / "openapi.json"
DESCRIPTION = json.loads(FILE.read_text(encoding="utf-8"))
FEATURES = {"examples": [{"x": 2.0}, {"x": [4.0]}]}
BODIES: dict[str, tuple[str, Any]] = {
    "predict": ("m", {"instances": [1.0, 2.0]}),
    "classify": ("examples", {"signature_name": "both", "context": {"w": 1.0}, **FEATURES}),
    "regress": ("examples", FEATURES),
    "infer": ("m", {"inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "data": [1.0, 2.0]}]}),
}
OPERATIONS = [
    (path, method)
    for path, item in DESCRIPTION["paths"].items()
    for method in ("get", "post")
    if method in item and path != EVIDENCE_PATH
]  # fmt: skip


@pytest.fixture(scope="module")
def rest(servables: Servables, examples: Servables) -> Rest:
    everything = Servables()
    for name, table in (("m", servables), ("examples", examples)):
        (entry,) = table.states(name).values()
        assert entry.servable is not None
        everything.publish(entry.servable)
    everything.set_labels({name: {"stable": max(everything.states(name))} for name in ("m", "examples")})
    return Rest(everything, max_tensor_bytes=2**20)


def follow(item: Any) -> Any:
    """Return the target of a reference in the description."""
    while "$ref" in item:
        found = DESCRIPTION
        for part in item["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        item = found
    return item


def schema_of(content: Any) -> Any:
    """Return a schema together with all other schemas, so that its references can be resolved."""
    return {**content["application/json"]["schema"], "components": DESCRIPTION["components"]}


def fits(value: Any, content: Any) -> bool:
    return bool(jsonschema.Draft202012Validator(schema_of(content)).is_valid(value))


def ask(rest: Rest, path: str, method: str, body: Any = None) -> tuple[int, Any]:
    content = b"" if body is None else json.dumps(body).encode()
    service = OpenInference(rest._servables, max_tensor_bytes=2**20, is_ready=lambda: True)
    api = OpenInferenceRest(service) if OpenInferenceRest.knows(path) else rest
    answer = api.answer(method.upper(), path, content, None)
    return answer.status, json.loads(answer.body)


def filled(path: str, model: str, rest: Rest) -> str:
    version = max(rest._servables.states(model))
    return path.format(model=model, version=version, label="stable", version_or_label=version)


def test_it_is_a_valid_description() -> None:
    OpenAPIV31SpecValidator(DESCRIPTION).validate()
    assert DESCRIPTION["openapi"].startswith("3.1.")
    names = [DESCRIPTION["paths"][path][method]["operationId"] for path, method in OPERATIONS]
    assert len(set(names)) == len(names) == 24


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_each_operation_is_answered_as_it_is_described(rest: Rest, path: str, method: str) -> None:
    operation = DESCRIPTION["paths"][path][method]
    model, body = BODIES.get(re.split("[:/]", path)[-1], ("m", None))
    if body is not None:
        assert fits(body, operation["requestBody"]["content"])
    status, answer = ask(rest, filled(path, model, rest), method, body)
    assert status == 200, answer
    jsonschema.Draft202012Validator(schema_of(operation["responses"]["200"]["content"])).validate(answer)
    if "{model}" not in path:
        return
    # The error matches its description, which contains its status.
    names = {"model": "other", "version": 1, "label": "stable", "version_or_label": 1}
    status, answer = ask(rest, path.format(**names), method, body)
    assert status in ({400, 404} if "{label}" in path else {404})
    assert fits(answer, follow(operation["responses"][str(status)])["content"])
    assert not fits({}, follow(operation["responses"][str(status)])["content"])


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_what_is_not_described_is_refused(rest: Rest, path: str, method: str) -> None:
    other = "post" if method == "get" else "get"
    for unknown in (f"{filled(path, 'm', rest)}/more", re.sub("^/v[12]", "/v3", filled(path, "m", rest))):
        assert ask(rest, unknown, method, {})[0] in {400, 404}
    assert ask(rest, filled(path, "m", rest), other, {})[0] == (404 if path.startswith("/v2") else 400)


@pytest.mark.parametrize(
    ("body", "good"),
    [
        ({"inputs": [1.0, 2.0]}, True),
        ({"signature_name": "two_inputs", "inputs": {"a": [[1.0, 2.0]], "b": 3}}, True),
        ({"signature_name": "words", "instances": [{"b64": "YQ=="}, "x"]}, True),
        ({}, False),
        ({"instances": []}, False),
        ({"instances": 1}, False),
        ({"instances": [1.0], "inputs": [1.0]}, False),
        ({"instances": [1.0], "signature_name": 1}, False),
        ({"instances": [None]}, False),
    ],
)
def test_a_body_fits_the_description_if_the_server_takes_it(rest: Rest, body: Any, good: bool) -> None:
    operation = DESCRIPTION["paths"]["/v1/models/{model}:predict"]["post"]
    assert fits(body, operation["requestBody"]["content"]) is good
    assert ask(rest, "/v1/models/m:predict", "post", body)[0] == (200 if good else 400)


@pytest.mark.parametrize(
    ("body", "good"),
    [
        (BODIES["infer"][1], True),
        ({**BODIES["infer"][1], "outputs": [{"name": "y", "parameters": {"binary_data": False}}], "id": "7"}, True),
        ({"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [[1.0]]}]}, False),
        ({"inputs": [{"name": "x", "shape": [1], "datatype": "FP33", "data": [1.0]}]}, False),
        ({"inputs": [{"name": "x", "shape": [1], "datatype": "FP32"}]}, False),
        ({"inputs": [{"shape": [1], "datatype": "FP32", "data": [1.0]}]}, False),
        ({}, False),
    ],
)
def test_an_inference_request_fits_the_description_if_the_server_takes_it(rest: Rest, body: Any, good: bool) -> None:
    operation = DESCRIPTION["paths"]["/v2/models/{model}/infer"]["post"]
    assert ask(rest, "/v2/models/m/infer", "post", body)[0] == (200 if good else 400)
    if good or "data" not in json.dumps(body):  # a schema cannot compare the data with the shape
        assert fits(body, operation["requestBody"]["content"]) is good


def test_sizes_and_statuses_are_the_servers() -> None:
    listed = {int(code) for path, method in OPERATIONS
              for code in DESCRIPTION["paths"][path][method]["responses"] if code.isdecimal()}  # fmt: skip
    assert listed == {200, 400, 404, 413, 429, 503, 504}
