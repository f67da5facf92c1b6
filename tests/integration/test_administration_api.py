"""Schemathesis calls the running administration API with requests from its description, as each role."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import (
    allow_header_conformance,
    content_type_conformance,
    negative_data_rejection,
    positive_data_acceptance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)
from tests.harness.administration import RemoteSite, remote_site
from tests.harness.workspaces import make_site

from sealserve.broker.administration.description import document
from sealserve.broker.administration.operations import OPERATIONS
from sealserve.broker.administration.roles import PERMITTED
from sealserve.terms import AdministratorRole

pytestmark = pytest.mark.integration

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
    positive_data_acceptance,
    unsupported_method,
    allow_header_conformance,
]
EXAMPLES = 12
"""Requests for each operation, role, and kind of data."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The PEM files of a client of the API."""

    authority: str
    identity: tuple[str, str]


# Invalid data can also be too large (413), which Schemathesis does not count as a rejection by default.
CONFIGURATION = SchemathesisConfig.from_dict(
    {
        "checks": {
            "negative_data_rejection": {
                "expected-statuses": ["400", "401", "403", "404", "405", "409", "413", "415", "422"]
            }
        }
    }
)


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RemoteSite]:
    with remote_site(make_site(tmp_path_factory.mktemp("api") / "site"), burst=10**6) as running:
        yield running


def caller(remote: RemoteSite, folder: Path, role: AdministratorRole) -> Caller:
    credentials = remote.credentials(role)
    authority, certificate, key = folder / "ca.pem", folder / "certificate.pem", folder / "key.pem"
    authority.write_bytes(credentials.broker_ca)
    certificate.write_bytes(credentials.identity.chain_pem)
    key.touch(0o600)
    key.write_bytes(credentials.identity.key_pem.reveal())
    return Caller(str(authority), (str(certificate), str(key)))


def is_inexpressible(case: Any) -> bool:
    """Return whether JSON Schema cannot express that a value of the request is invalid."""
    body = case.body if isinstance(case.body, dict) else {}
    query = case.query if isinstance(case.query, dict) else {}
    # A pattern cannot express which characters of Unicode are printable.
    labels = (body.get("label", ""), query.get("platform", ""))
    # A policy file is TOML with its own rules.
    return body.get("file") is not None or any(isinstance(text, str) and not text.isprintable() for text in labels)


@pytest.mark.parametrize("role", AdministratorRole)
@pytest.mark.parametrize(
    ("name", "mode"),
    [
        *((operation.name, GenerationMode.POSITIVE) for operation in OPERATIONS),
        # An operation without parameters and without a body has no invalid data.
        *((operation.name, GenerationMode.NEGATIVE) for operation in OPERATIONS
          if operation.body or operation.query or "{" in operation.path),
    ],
)  # fmt: skip
def test_the_api_behaves_as_described(
    remote: RemoteSite, tmp_path: Path, name: str, role: AdministratorRole, mode: GenerationMode
) -> None:
    schema = schemathesis.openapi.from_dict(document(), config=CONFIGURATION)
    operation = schema.find_operation_by_id(name)
    called = caller(remote, tmp_path, role)
    before = len(remote.rows())

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def call(case: Any) -> None:
        with requests.Session() as session:
            session.trust_env = False
            answer = case.call(base_url=remote.url, session=session, verify=called.authority, cert=called.identity)
        inexpressible = is_inexpressible(case)
        case.validate_response(
            answer, checks=[check for check in CHECKS if not (inexpressible and check is positive_data_acceptance)]
        )
        if role not in PERMITTED[name]:
            assert answer.status_code in {403, 404, 405}, answer.text

    call()
    if role is not AdministratorRole.OPERATOR:
        assert len(remote.rows()) == before


@pytest.mark.parametrize("name", [operation.name for operation in OPERATIONS])
def test_no_operation_answers_a_client_without_a_certificate(remote: RemoteSite, tmp_path: Path, name: str) -> None:
    operation = schemathesis.openapi.from_dict(document()).find_operation_by_id(name)
    called = caller(remote, tmp_path, AdministratorRole.VIEWER)
    before = len(remote.rows())

    @given(case=operation.as_strategy())
    @settings(max_examples=2, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    def call(case: Any) -> None:
        session = requests.Session()
        session.trust_env = False
        with session, pytest.raises(requests.ConnectionError):
            case.call(base_url=remote.url, session=session, verify=called.authority)

    call()
    assert len(remote.rows()) == before
