"""Client bundles, honest and hostile."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import Encoding
from tests.harness.errors import raises
from tests.unit.client.conftest import CLIENT, SERVICE, Behaviour, Material, Serve

from sealserve.client import Client
from sealserve.client.bundle import BundledModel, ClientBundle
from sealserve.client.codes import ClientCode
from sealserve.client.predict import Signature, TensorSpec
from sealserve.pki.certificate import LARGEST_KEY, KeyMismatchError
from sealserve.pki.codes import PkiCode
from sealserve.regular_file import InputFileKindError, InputFileSizeError
from sealserve.secret import SecretBytes

MODEL = BundledModel(
    name="toy",
    version=2,
    labels=("stable",),
    signatures={
        "serving_default": Signature(
            method="tensorflow/serving/predict",
            inputs={"x": TensorSpec("float32", (None, 3)), "scale": TensorSpec("float32", None)},
            outputs={"y": TensorSpec("string", ())},
            optional=frozenset({"scale"}),
        )
    },
)


@pytest.fixture
def bundle(material: Material) -> ClientBundle:
    return ClientBundle(
        user="ann",
        grpc="127.0.0.1:8500",
        rest="[::1]:8501",
        server_name=SERVICE,
        ca=material.service.certificate_pem,
        certificate=material.client.chain_pem,
        key=SecretBytes(material.client.key_pem.reveal()),
        models=(MODEL,),
    )


def test_what_is_rendered_parses_to_the_same(bundle: ClientBundle, material: Material) -> None:
    content = bundle.render().reveal()
    assert ClientBundle.parse(content) == bundle
    assert "PRIVATE KEY" not in repr(bundle)
    one_way = ClientBundle(user="bob", grpc="h:1", server_name=SERVICE, ca=material.service.certificate_pem)
    assert ClientBundle.parse(one_way.render().reveal()) == one_way
    assert (bundle.model, one_way.model) == ("toy", None)


CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"format": "other"}, 'its "format" is not'),
    ({"version": 0}, 'its "version" is not 1'),
    ({"version": True}, 'its "version" is not 1'),
    ({"version": "1"}, 'its "version" is not 1'),
    ({"path": "/etc/passwd"}, "it has the unknown field 'path'"),
    ({"user": None}, "its user is not a text"),
    ({"user": ["ann"]}, "its user is not a text"),
    ({"user": ""}, "is not a valid name"),
    ({"user": "\x1b[2J"}, "is not a valid name"),
    ({"user": "\ud800"}, "is not a valid name"),
    ({"user": "a" * 300}, "is not a valid name"),
    ({"grpc": "unix:/run/docker.sock"}, "is not an address of the form host:port"),
    ({"grpc": "h:99999"}, "is not an address of the form host:port"),
    ({"rest": "https://h:1/"}, "is not an address of the form host:port"),
    ({"ca": None}, "its ca is not a text"),
    ({"ca": "\ud800"}, "a text is not UTF-8"),
    ({"private_key": 3}, "its private_key is not a text"),
    ({"models": {}}, "must be lists"),
    ({"models": [3]}, "is not an object"),
    ({"models": [{"name": "x"}]}, "the version of a model"),
    ({"models": [{"name": "x", "version": -1}]}, "the version of a model"),
    ({"models": [{"name": "x", "version": True}]}, "the version of a model"),
    ({"models": [{"name": "\n", "version": 1}]}, "is not a valid name"),
    ({"models": [{"name": "x", "version": 1, "labels": [1]}]}, "a label of a model is not a text"),
    ({"models": [{"name": "x", "version": 1, "labels": ["\x07"]}]}, "is not a valid name"),
    ({"models": [{"name": "x", "version": 1, "signatures": []}]}, "is not an object"),
    ({"models": [{"name": "x", "version": 1, "signatures": {"s": {}}}]}, "its method is not a text"),
    (
        {"models": [{"name": "x", "version": 1, "signatures": {"s": {"method": "m", "inputs": {"i": {"dtype": 1}}}}}]},
        "its dtype is not a text",
    ),
    (
        {"models": [{"name": "x", "version": 1,
                     "signatures": {"s": {"method": "m", "inputs": {"i": {"dtype": "f", "shape": [-1]}}}}}]},
        "the shape of a tensor",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("change", "reason"), CHANGES)
def test_a_bundle_with_a_wrong_field_is_rejected(bundle: ClientBundle, change: dict[str, Any], reason: str) -> None:
    content = json.dumps(json.loads(bundle.render().reveal()) | change).encode()
    with raises(ClientCode.BUNDLE_INVALID, match="is not a valid client bundle: ") as caught:
        ClientBundle.parse(content, source="a.json")
    assert reason in caught.value.message
    assert caught.value.message.isprintable()
    assert "PRIVATE KEY" not in caught.value.message


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff", b"[]", b"null", b"3", b"[" * 100_000, b"{}", b'{"format": NaN}', b"PK\x03\x04", b'{"a": ' * 50_000],
)
def test_what_is_not_a_bundle_is_rejected(content: bytes) -> None:
    with raises(ClientCode.BUNDLE_INVALID) as caught:
        ClientBundle.parse(content)
    assert caught.value.__cause__ is None


def test_a_field_that_is_given_twice_is_rejected(bundle: ClientBundle) -> None:
    content = bundle.render().reveal().replace(b'"user"', b'"grpc": "evil.example:1", "user"')
    with raises(ClientCode.BUNDLE_INVALID, match="or a field is repeated"):
        ClientBundle.parse(content)


def test_a_bundle_of_a_newer_version_says_so(bundle: ClientBundle) -> None:
    content = bundle.render().reveal().replace(b'"version": 1,', b'"version": 2, "new": 1,', 1)
    with raises(ClientCode.BUNDLE_VERSION, match=r"has a newer format of client bundles: expected version 1, got 2\."):
        ClientBundle.parse(content)


def test_a_key_of_another_certificate_is_rejected(bundle: ClientBundle, material: Material) -> None:
    document = json.loads(bundle.render().reveal())
    for key, expected in (
        (material.stranger.key_pem.reveal().decode(), KeyMismatchError),
        ("-----BEGIN PRIVATE KEY-----", PkiCode.CERTIFICATE_KEY_UNREADABLE),
        (None, ClientCode.CREDENTIALS),
    ):
        with raises(expected):
            ClientBundle.parse(json.dumps(document | {"private_key": key}).encode())
    with raises(PkiCode.CERTIFICATE_UNREADABLE):
        ClientBundle.parse(json.dumps(document | {"ca": "no certificate"}).encode())
    with raises(ClientCode.CREDENTIALS):
        ClientBundle.parse(json.dumps(document | {"server_name": "*"}).encode())


def test_a_second_authority_is_rejected(bundle: ClientBundle, material: Material) -> None:
    """Users compare the fingerprint of one authority with the owner's, so a client trusts no other one."""
    document = json.loads(bundle.render().reveal())
    other = material.stranger_ca.certificate_pem.decode()
    for ca in (document["ca"] + other, other + document["ca"], document["ca"] * 2):
        with raises(ClientCode.BUNDLE_INVALID, match='its "ca" is wrong: expected one certificate, got 2'):
            ClientBundle.parse(json.dumps(document | {"ca": ca}).encode())


def test_a_key_of_an_absurd_size_is_not_read(bundle: ClientBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time that it takes to read a key grows with the cube of its size."""
    document = json.loads(bundle.render().reveal())
    padding = "\n" * (LARGEST_KEY - len(document["private_key"]))
    ClientBundle.parse(json.dumps(document | {"private_key": document["private_key"] + padding}).encode())

    def load(*_: object, **__: object) -> None:
        pytest.fail("the key was read")

    monkeypatch.setattr(serialization, "load_pem_private_key", load)
    with raises(PkiCode.CERTIFICATE_KEY_UNREADABLE, match="is too long: expected at most 16384 bytes of PEM"):
        ClientBundle.parse(json.dumps(document | {"private_key": document["private_key"] + padding + "\n"}).encode())


def changed(pem: bytes, old: bytes, new: bytes) -> str:
    """Return a certificate with some bytes of its DER replaced."""
    der = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
    assert old in der
    return (
        f"-----BEGIN CERTIFICATE-----\n{base64.encodebytes(der.replace(old, new)).decode()}-----END CERTIFICATE-----\n"
    )


def test_a_certificate_that_nothing_understands_is_rejected(bundle: ClientBundle, material: Material) -> None:
    document = json.loads(bundle.render().reveal())
    ec_key = bytes.fromhex("06072a8648ce3d0201")
    unknown = changed(material.client.chain_pem, ec_key, ec_key[:-1] + b"\x7f")
    with raises(PkiCode.CERTIFICATE_UNSUPPORTED, match="The public key in The client certificate cannot be read"):
        ClientBundle.parse(json.dumps(document | {"certificate": unknown}).encode())
    a_text, bits = (
        b"\x0c" + bytes([len(CLIENT)]) + CLIENT.encode(),
        b"\x03" + bytes([len(CLIENT)]) + b"\0" * len(CLIENT),
    )
    odd_name = changed(material.client.chain_pem, a_text, bits)
    with raises(PkiCode.CERTIFICATE_UNREADABLE):
        ClientBundle.parse(json.dumps(document | {"certificate": odd_name}).encode())


def test_the_file_is_regular_and_small(tmp_path: Path) -> None:
    with raises(InputFileKindError):
        ClientBundle.read(tmp_path)
    with (tmp_path / "huge.json").open("wb") as huge:
        huge.truncate(2**40)
    with raises(InputFileSizeError):
        ClientBundle.read(tmp_path / "huge.json")


def test_a_client_of_a_bundle_calls_the_service(bundle: ClientBundle, serve: Serve, tmp_path: Path) -> None:
    behaviour = Behaviour()
    port = serve(behaviour)
    path = tmp_path / "ann.json"
    path.write_bytes(bundle.render().reveal().replace(b"127.0.0.1:8500", b"127.0.0.1:%d" % port))
    with Client.from_bundle(path, connections=2) as client:
        answer = client.predict({"input": np.ones((1, 3), np.float32)}, label="stable", traceparent="a context")
        assert ("traceparent", "a context") in behaviour.sent
        assert answer["input"].tolist() == [[2, 2, 2]]
        assert behaviour.requests[-1].model_spec.name == "toy"
        assert behaviour.requests[-1].model_spec.version_label == "stable"
        assert client.metadata().model == "toy"
        assert [status.version for status in client.status()] == [2, 1]
        assert len(client.predictor.channels) == 2
    with Client(bundle, address=f"127.0.0.1:{port}") as client:
        with raises(ClientCode.VERSION_CHOICE):
            client.predict({}, version=1, label="stable")
        assert client.predict({"input": np.ones((1, 3), np.float32)}, model="other").model == "other"


def test_a_model_is_named_where_the_bundle_leaves_a_choice(bundle: ClientBundle, serve: Serve) -> None:
    port = serve(Behaviour())
    two = ClientBundle(
        user=bundle.user,
        grpc=f"127.0.0.1:{port}",
        server_name=bundle.server_name,
        ca=bundle.ca,
        certificate=bundle.certificate,
        key=bundle.key,
        models=(MODEL, BundledModel(name="other", version=1)),
    )
    with Client(two) as client, raises(ClientCode.MODEL_CHOICE, match="the bundle lists other, toy"):
        client.predict({})
