"""The release statement: the owner's signature, and the digest of a model."""

import hashlib

import pytest
from scripts.attested_example import Example, digest, ed25519
from tests.harness.errors import raises

from sealserve.attested.codes import AttestedCode
from sealserve.attested.release_statement import (
    DOMAIN,
    ModelSigner,
    ReleaseStatement,
    StatedModel,
    model_digest,
    sign_statement,
    verify_statement,
)
from sealserve.sealing.signed_index import ENCLAVE_DOMAIN, RELEASE_DOMAIN, sign_index
from sealserve.sgx.reference_values import ReferenceValues


def test_one_of_the_pinned_keys_is_sufficient(example: Example) -> None:
    owner = example.owner.public_key().public_bytes_raw()
    other = ed25519("other owner").public_key().public_bytes_raw()
    assert verify_statement(example.signed_statement, (other, owner)) == example.statement()
    for keys in ((other,), ()):
        with raises(AttestedCode.STATEMENT_SIGNATURE):
            verify_statement(example.signed_statement, keys)


@pytest.mark.parametrize("domain", [RELEASE_DOMAIN, ENCLAVE_DOMAIN, b""])
def test_a_signature_of_another_kind_of_document_is_refused(example: Example, domain: bytes) -> None:
    content = example.statement().to_bytes()
    signed = example.signed_statement.model_copy(update={"signature": sign_index(domain, content, example.owner)})
    with raises(AttestedCode.STATEMENT_SIGNATURE):
        verify_statement(signed, (example.owner.public_key().public_bytes_raw(),))
    assert DOMAIN not in {RELEASE_DOMAIN, ENCLAVE_DOMAIN}


def test_a_statement_finds_its_parts(example: Example) -> None:
    statement = example.statement()
    assert statement.enclaves[0].values == example.reference_values
    assert isinstance(statement.enclaves[0].values, ReferenceValues)
    assert statement.enclave(example.reference_values.mr_enclave) == statement.enclaves[0]
    assert statement.enclave(digest("other")) is None
    assert statement.model("half_plus_two", "1") == example.model
    assert statement.model("half_plus_two", "2") is None
    broker = statement.broker("attestation.service.com")
    assert broker is not None
    assert len(broker.key_set.keys) == 1
    assert statement.broker("attestation.other.com") is None


def test_a_statement_names_the_signer_of_a_model(example: Example) -> None:
    signer = ModelSigner(method="sigstore", identity="ann@example.com", issuer="https://accounts.example.com")
    model = StatedModel(
        name="resnet50", version="9223372036854775807", sha256="a" * 64, allowed_operations=("ReadFile",), signer=signer
    )
    signed = sign_statement(example.statement(models=(model,)), example.owner)
    found = verify_statement(signed, (example.owner.public_key().public_bytes_raw(),))
    assert found.models == (model,)
    assert ReleaseStatement.parse(signed.content) == found


def test_the_digest_of_a_model_covers_names_sizes_and_contents() -> None:
    files = {"b": (2, "22" * 32), "a/c": (1, "11" * 32), "\u00e9": (3, "33" * 32)}
    lines = f"{'11' * 32} 1 a/c\n{'22' * 32} 2 b\n{'33' * 32} 3 \u00e9\n"
    assert model_digest(files) == hashlib.sha256(lines.encode()).hexdigest()
    assert model_digest(dict(reversed(files.items()))) == model_digest(files)
    for other in (files | {"b": (3, "22" * 32)}, files | {"b": (2, "23" * 32)}, files | {"d": (0, "00" * 32)}):
        assert model_digest(other) != model_digest(files)
    with pytest.raises(ValueError, match="new line"):
        model_digest({"a\nb": (0, "00" * 32)})
