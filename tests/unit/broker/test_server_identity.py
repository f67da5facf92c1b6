import ipaddress
from datetime import UTC, datetime, timedelta

import pytest
from tests.harness.certificates import Signer, key_text, make_key, text
from tests.harness.errors import raises

from sealserve.broker.codes import BrokerCode
from sealserve.broker.server_identity import ServerIdentity, check_replacement
from sealserve.errors import SealserveError
from sealserve.pki.authority import Authority, AuthorityKind
from sealserve.pki.certificate import CertifiedKey
from sealserve.secret import SecretBytes

NAMES = ("attestation.service.com", "127.0.0.1")
ADDRESS = ipaddress.ip_address("127.0.0.1")


@pytest.fixture(scope="module")
def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture(scope="module")
def authority(now: datetime) -> Authority:
    return Authority.create(AuthorityKind.BROKER, names=[NAMES[0]], addresses=[ADDRESS], simulated=True, now=now)


def issue(authority: Authority, now: datetime) -> CertifiedKey:
    return authority.issue_server([NAMES[0]], [ADDRESS], now=now)


def test_a_certificate_for_all_names_is_accepted(authority: Authority, now: datetime) -> None:
    identity = issue(authority, now)
    presented = check_replacement(identity, NAMES, now)
    assert presented.chain_pem == identity.chain_pem
    assert presented.ends > now + timedelta(days=14)


def test_a_certificate_without_a_name_of_the_broker_is_rejected(authority: Authority, now: datetime) -> None:
    lacking = authority.issue_server([NAMES[0]], now=now)
    with raises(BrokerCode.CERTIFICATE_UNUSABLE, match=r"does not contain a name of the broker: expected 127\.0\.0\.1"):
        check_replacement(lacking, NAMES, now)
    with raises(BrokerCode.CERTIFICATE_UNUSABLE, match=r"expected attestation\.service\.com"):
        check_replacement(authority.issue_server([], [ADDRESS], now=now), NAMES, now)
    assert check_replacement(lacking, [NAMES[0].upper() + "."], now)


def test_a_wildcard_stands_for_one_label(now: datetime) -> None:
    signer = Signer.make("wild")
    key = make_key("P-256")
    chain = text(signer.leaf(key, dns_name="*.service.com"))
    identity = CertifiedKey(key_pem=SecretBytes(key_text(key)), chain_pem=chain)
    assert check_replacement(identity, ["attestation.service.com"], now)
    for other in ("service.com", "a.b.service.com"):
        with raises(BrokerCode.CERTIFICATE_UNUSABLE, match="does not contain a name of the broker"):
            check_replacement(identity, [other], now)


def test_a_client_certificate_and_a_chain_in_another_order_are_rejected(authority: Authority, now: datetime) -> None:
    users = Authority.create(AuthorityKind.USERS, names=["user.com"], simulated=True, now=now)
    with raises(BrokerCode.CERTIFICATE_UNUSABLE, match="is not for a TLS server"):
        check_replacement(users.issue_client("user.com", now=now), (), now)
    identity = issue(authority, now)
    stray = users.certificate_pem
    broken = CertifiedKey(key_pem=identity.key_pem, chain_pem=identity.chain_pem + stray)
    with raises(BrokerCode.CERTIFICATE_UNUSABLE, match="The chain of the broker's certificate is broken"):
        check_replacement(broken, NAMES, now)


def test_a_key_that_openssl_rejects_is_an_error_of_ours(now: datetime) -> None:
    signer, key = Signer.make("weak"), make_key("RSA-1024")
    weak = CertifiedKey(key_pem=SecretBytes(key_text(key)), chain_pem=text(signer.leaf(key)))
    with raises(BrokerCode.CERTIFICATE_UNUSABLE, match="OpenSSL cannot use the broker's certificate and key"):
        check_replacement(weak, (), now)


def test_only_a_replacement_is_checked_for_names_and_dates(authority: Authority, now: datetime) -> None:
    given = [issue(authority, now)]
    late = now + timedelta(days=20_000)
    identity = ServerIdentity(lambda: given[0], names=NAMES, clock=lambda: late)
    first = identity.value
    with pytest.raises(SealserveError, match="expired"):
        first.check(late)  # `BrokerServer.start` and `/readyz` report it
    given[0] = issue(authority, now)
    assert not identity.reload()
    assert identity.value is first
    assert isinstance(identity.problem, SealserveError)
    assert identity.problem.code == "certificate.expired"


def test_a_certificate_that_expires_soon_is_logged(
    authority: Authority, now: datetime, caplog: pytest.LogCaptureFixture
) -> None:
    identity = ServerIdentity.fixed(authority.issue_server([NAMES[0]], now=now, days=13))
    identity.value.warn(now)
    assert "the broker's certificate expires on" in caplog.text
