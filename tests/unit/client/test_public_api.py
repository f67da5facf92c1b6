"""The names that programs of users import: removing or renaming one breaks them."""

import inspect
import typing

from sealserve import client

NAMES = {
    "AttestedPolicy", "BundledModel", "Client", "ClientBundle",
    "DeadlineError", "EndpointTls", "InputError", "Latency", "LoadReport", "ModelMetadata", "Prediction", "Predictor",
    "ReceivedReceipt", "Request", "RequestRefusedError", "SealserveError", "SecretBytes", "ServiceChannel",
    "ServiceFailedError", "Signature", "StepFailedError", "TensorSpec", "TlsError", "UnavailableError",
    "UnreachableError", "VerificationError", "VerifiedEndpoint", "VersionState", "VersionStatus", "open_channel",
    "read_policy",
    "run_load", "serialize_example", "verify_endpoint",
}  # fmt: skip


def test_these_names_are_public() -> None:
    assert set(client.__all__) == NAMES
    assert sorted(client.__all__) == client.__all__


def test_each_public_name_is_documented() -> None:
    assert [name for name in client.__all__ if not inspect.getdoc(getattr(client, name))] == []


def test_what_public_functions_take_and_return_is_public() -> None:
    names = {name: getattr(client, name) for name in client.__all__}  # modules import the verifier only for mypy
    public = set(names.values())
    functions = [client.open_channel, client.run_load]
    functions += [
        method
        for kind in (client.Predictor, client.Client, client.ClientBundle)
        for name, method in vars(kind).items()
        if callable(method) and name[0] != "_"
    ]
    classes = {
        part
        for function in functions
        for hint in typing.get_type_hints(function, localns={**names, "AttestedConnection": object}).values()
        for part in (hint, *typing.get_args(hint))
        if inspect.isclass(part) and part.__module__.startswith("sealserve")
    }
    assert classes
    assert classes <= public
