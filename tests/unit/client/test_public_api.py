"""The names that programs of users import: removing or renaming one breaks them."""

import inspect
import typing

from sealserve import client

NAMES = {
    "BundledModel", "Client", "ClientBundle",
    "DeadlineError", "InputError", "Latency", "LoadReport", "ModelMetadata", "Prediction", "Predictor", "Request",
    "RequestRefusedError", "SealserveError", "SecretBytes", "ServiceChannel", "ServiceFailedError", "Signature",
    "TensorSpec", "TlsError", "UnavailableError", "UnreachableError", "VerificationError", "VersionState",
    "VersionStatus", "open_channel", "run_load", "serialize_example",
}  # fmt: skip


def test_these_names_are_public() -> None:
    assert set(client.__all__) == NAMES
    assert sorted(client.__all__) == client.__all__


def test_each_public_name_is_documented() -> None:
    assert [name for name in client.__all__ if not inspect.getdoc(getattr(client, name))] == []


def test_what_public_functions_take_and_return_is_public() -> None:
    public = {getattr(client, name) for name in client.__all__}
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
        for hint in typing.get_type_hints(function).values()
        for part in (hint, *typing.get_args(hint))
        if inspect.isclass(part) and part.__module__.startswith("sealserve")
    }
    assert classes
    assert classes <= public
