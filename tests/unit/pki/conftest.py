import ipaddress
from datetime import UTC, datetime

import pytest

from sealserve.pki.authority import Authority, AuthorityKind

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
LOOPBACK = ipaddress.ip_address("127.0.0.1")
SERVICE = "grpc.tf-serving.service.com"
CLIENT = "client.tf-serving.service.com"
BROKER = "attestation.service.com"


@pytest.fixture(scope="session")
def now() -> datetime:
    return NOW


@pytest.fixture(scope="session")
def broker() -> Authority:
    return Authority.create(AuthorityKind.BROKER, names=[BROKER], addresses=[LOOPBACK], simulated=True, now=NOW)


@pytest.fixture(scope="session")
def service() -> Authority:
    return Authority.create(AuthorityKind.SERVICE, names=[SERVICE], simulated=True, now=NOW)


@pytest.fixture(scope="session")
def users() -> Authority:
    return Authority.create(AuthorityKind.USERS, names=[CLIENT], simulated=False, now=NOW)
