"""The settings for client certificates of an attested server."""

from datetime import datetime

import pytest
from tests.harness.certificates import Signer, text
from tests.harness.errors import raises

from sealserve.pki.authority import Authority
from sealserve.pki.client_settings import ClientSettings, parse_client_settings
from sealserve.pki.codes import PkiCode
from sealserve.pki.ssl_config import SslConfig


def test_what_is_rendered_parses_to_the_same(users: Authority) -> None:
    for settings in (
        ClientSettings(),
        ClientSettings(custom_ca=users.certificate_pem, client_verify=True),
    ):
        assert parse_client_settings(settings.render()) == settings
    assert parse_client_settings(b"") == ClientSettings()


def test_revocation_lists_are_part_of_custom_ca() -> None:
    signer = Signer.make("users")
    listed = signer.revocation_list()
    settings = ClientSettings(custom_ca=text(signer.certificate()), client_verify=True, revocation_lists=listed)
    assert parse_client_settings(settings.render()) == settings


def test_with_a_key_the_settings_are_complete(service: Authority, users: Authority, now: datetime) -> None:
    leaf = service.issue_server(["grpc.tf-serving.service.com"], now=now)
    settings = ClientSettings(custom_ca=users.certificate_pem, client_verify=True)
    assert settings.with_key(leaf.key_pem, leaf.chain_pem) == SslConfig(
        server_key=leaf.key_pem, server_cert=leaf.chain_pem, custom_ca=users.certificate_pem, client_verify=True
    )
    with raises(PkiCode.SSL_CONFIG_NO_CLIENT_AUTHORITY, match="client_verify without custom_ca"):
        ClientSettings(client_verify=True).with_key(leaf.key_pem, leaf.chain_pem)


@pytest.mark.parametrize("field", ["server_key", "server_cert"])
def test_a_servers_key_or_certificate_is_rejected_and_not_quoted(field: str) -> None:
    with raises(PkiCode.SSL_CONFIG_SERVER_KEY, match="contains server_key or server_cert") as caught:
        parse_client_settings(f'{field}: "canary-771177"'.encode())
    assert "canary" not in str(caught.value)
    assert caught.value.hint == "Use only the fields custom_ca and client_verify."


@pytest.mark.parametrize("content", [b"client_verify: maybe", b"unknown: 1", b"\xff", b"client_verify: true }"])
def test_what_is_not_an_ssl_config_is_rejected(content: bytes) -> None:
    with raises(PkiCode.SSL_CONFIG_SYNTAX, match="not an SSLConfig message"):
        parse_client_settings(content)
