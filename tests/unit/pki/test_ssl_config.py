from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.harness.errors import raises

from sealserve.errors import InputError
from sealserve.pki.authority import Authority
from sealserve.pki.certificate import CertifiedKey, KeyMismatchError
from sealserve.pki.codes import PkiCode
from sealserve.pki.ssl_config import SslConfig, parse
from sealserve.secret import SecretBytes


@pytest.fixture(scope="module")
def leaf(service: Authority, now: datetime) -> CertifiedKey:
    return service.issue_server(["grpc.tf-serving.service.com"], now=now)


@pytest.fixture
def two_way(leaf: CertifiedKey, users: Authority) -> SslConfig:
    return SslConfig(
        server_key=leaf.key_pem, server_cert=leaf.chain_pem, custom_ca=users.certificate_pem, client_verify=True
    )


def test_what_is_rendered_parses_to_the_same(two_way: SslConfig, leaf: CertifiedKey) -> None:
    assert parse(two_way.render()) == two_way
    one_way = SslConfig(server_key=leaf.key_pem, server_cert=leaf.chain_pem)
    assert parse(one_way.render().reveal()) == one_way


def test_the_text_has_tensorflow_servings_field_names(two_way: SslConfig) -> None:
    lines = two_way.render().reveal().decode().splitlines()
    assert [line.split(":")[0] for line in lines] == ["server_key", "server_cert", "custom_ca", "client_verify"]
    assert lines[0].startswith('server_key: "-----BEGIN PRIVATE KEY-----\\n')
    assert lines[3] == "client_verify: true"


def test_a_file_written_by_hand_parses(leaf: CertifiedKey) -> None:
    quoted = "\n".join(f'  "{line}\\n"' for line in leaf.key_pem.reveal().decode().splitlines())
    certificate = leaf.chain_pem.decode().replace("\n", "\\n")
    config = parse(f"# by hand\nserver_key:\n{quoted}\nserver_cert: '{certificate}'\nclient_verify: false\n".encode())
    assert config.server_key == leaf.key_pem
    assert config.server_cert == leaf.chain_pem
    assert config.custom_ca is None


def test_comments_beside_the_pem_blocks_are_no_obstacle(leaf: CertifiedKey) -> None:
    config = SslConfig(server_key=leaf.key_pem, server_cert="# für uns\n".encode("latin-1") + leaf.chain_pem)
    assert parse(config.render()).server_cert.endswith(leaf.chain_pem)


def _whole_traceback(error: BaseException) -> str:
    parts = []
    current: BaseException | None = error
    while current is not None:
        parts.append(repr(current) + str(current))
        current = current.__cause__ or current.__context__
    return "".join(parts)


@pytest.mark.parametrize(
    "broken",
    [
        b"server_key: SECRETSECRETSECRET",
        b'server_key: "SECRETSECRETSECRET',
        b'server_key: "a" server_key: "SECRETSECRETSECRET"',
        b'SECRETSECRETSECRET: "b"',
        b"SECRETSECRETSECRET\xff",
        b'server_key: "\\xffSECRETSECRETSECRET"',
        b"client_verify: SECRETSECRETSECRET",
    ],
)
def test_a_syntax_error_says_where_and_never_what(broken: bytes) -> None:
    with raises(
        PkiCode.SSL_CONFIG_SYNTAX, match=r"ssl\.cfg is not an SSLConfig message in protobuf text format"
    ) as caught:
        parse(broken)
    assert caught.value.code == "ssl-config.syntax"
    assert "SECRETSECRETSECRET" not in _whole_traceback(caught.value)


@given(st.binary(max_size=200))
def test_any_bytes_are_settings_or_a_typed_error(raw: bytes) -> None:
    with pytest.raises(InputError):
        parse(raw)


@given(st.text(alphabet="server_key:cust{}<>\"'\\x0uU dF8[],;#\n", max_size=60))
def test_any_text_is_settings_or_a_typed_error(text: str) -> None:
    with pytest.raises(InputError):
        parse(text.encode())


@pytest.mark.parametrize("field", ["server_key", "server_cert"])
def test_a_missing_field_is_named(leaf: CertifiedKey, field: str) -> None:
    key, certificate = leaf.key_pem, leaf.chain_pem
    with raises(PkiCode.SSL_CONFIG_MISSING_FIELD, match=f"The TLS settings lack the field {field}") as caught:
        SslConfig(
            server_key=SecretBytes(b"") if field == "server_key" else key,
            server_cert=b"" if field == "server_cert" else certificate,
        )
    assert caught.value.code == "ssl-config.missing-field"


def test_clients_to_verify_without_an_authority_are_refused(leaf: CertifiedKey) -> None:
    with raises(PkiCode.SSL_CONFIG_NO_CLIENT_AUTHORITY, match="client_verify without custom_ca") as caught:
        SslConfig(server_key=leaf.key_pem, server_cert=leaf.chain_pem, client_verify=True)
    assert caught.value.code == "ssl-config.no-client-authority"


def test_a_key_of_another_certificate_is_refused(leaf: CertifiedKey, broker: Authority) -> None:
    with pytest.raises(
        KeyMismatchError,
        match=r"The private key does not match server_cert "
        r"\(CN=grpc\.tf-serving\.service\.com,O=sealserve \(simulated\)\)",
    ):
        SslConfig(server_key=broker.key_pem, server_cert=leaf.chain_pem)
    with raises(PkiCode.CERTIFICATE_KEY_UNREADABLE, match="The private key of server_cert"):
        SslConfig(server_key=SecretBytes(b"no key"), server_cert=leaf.chain_pem)


def test_an_unreadable_client_authority_is_refused(leaf: CertifiedKey) -> None:
    with raises(PkiCode.CERTIFICATE_UNREADABLE, match="custom_ca does not contain a readable PEM certificate"):
        SslConfig(server_key=leaf.key_pem, server_cert=leaf.chain_pem, custom_ca=b"?", client_verify=True)


def test_the_representation_hides_the_key(two_way: SslConfig) -> None:
    assert "PRIVATE" not in repr(two_way) + repr(two_way.render())
