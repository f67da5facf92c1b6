"""Attested serving on this machine: the enclaves create their TLS keys, and the owner has none of them."""

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from tests.harness.rest import ANSWER, BODY, PREDICT, RestConnection, user_context
from tests.harness.running import Running, deployment
from tests.harness.workspaces import NAME

from sealserve.attested.evidence_conversation import PATH, EvidenceRequest, PresentedService
from sealserve.attested.receipt import verify_receipt
from sealserve.attested.user_policy import UserPolicy, parse_user_policy
from sealserve.attested.verification import StepFailedError
from sealserve.broker import admin
from sealserve.cluster import ports
from sealserve.cluster.logs.launch_log import read_steps
from sealserve.owner import simulation
from sealserve.owner.owner import Owner
from sealserve.sealing.release_index import INDEX_FILE, parse_index

pytestmark = [pytest.mark.integration, pytest.mark.tensorflow]


@contextmanager
def attested(capture: pytest.CaptureFixture[str], *, tls: str = "two-way", **sections: Any) -> Iterator[Running]:
    """Yield an attested deployment with REST that runs."""
    service = {"rest_port": ports.find_free(), "tls": tls}
    with deployment(capture, server={"rest": True}, service=service, **sections) as here:
        here.up()
        yield here


@dataclass(frozen=True)
class Visit:
    """A user's connection: the service's evidence on it, and the answer to a request with its receipt."""

    presented: PresentedService
    response: bytes
    receipt: str

    @property
    def answer(self) -> Any:
        """The response as JSON."""
        return json.loads(self.response)


def visit(here: Running, *, certificate: bool = True) -> Visit:
    """Get evidence over a new connection, and then send a request over the same connection."""
    request = EvidenceRequest()
    with closing(RestConnection(here.site, user_context(here.site, certificate=certificate))) as connection:
        connection.request("GET", f"{PATH}?{request.query}")
        answer = connection.getresponse()
        document = answer.read()
        assert answer.status == 200, document
        leaf = connection.sock.getpeercert(binary_form=True)
        assert leaf is not None
        presented = request.receive(document, certificate=leaf)
        connection.request("POST", PREDICT, BODY, headers={"Sealserve-Receipt": "1"})
        answer = connection.getresponse()
        response = answer.read()
        assert answer.status == 200, response
    return Visit(presented, response, answer.headers["Sealserve-Receipt"])


def policy_of(here: Running) -> UserPolicy:
    """Return the policy of a user who pins the owner's key, and accepts this simulated vendor."""
    vendor = simulation.open_vendor(here.site.workspace, now=datetime.now(UTC))
    root = vendor.root.certificate.public_bytes(Encoding.PEM).decode()
    key = Owner.open(here.site.workspace).public_key().public_bytes_raw().hex()
    return parse_user_policy(
        f'version = 1\nowner_keys = ["{key}"]\ndangerous_simulated_root = """\n{root}"""\n'.encode()
    )


def release_of(here: Running) -> Path:
    (release,) = here.site.workspace.owner.releases.iterdir()
    return release


def test_a_user_verifies_the_service_and_the_owner_has_no_key_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    with attested(capsys) as here:
        # The six steps hold on the connection on which the request is then sent.
        visits = [visit(here) for _ in range(2 * len(here.states()))]
        policy, now = policy_of(here), datetime.now(UTC)
        verified = [one.presented.verify(policy, now=now) for one in visits]
        assert [one.answer for one in visits] == [ANSWER] * len(visits)
        assert len({one.keyset.digest for one in verified}) == 2, "each replica has keys of its own"
        # The receipts are for these requests and answers, and for the model in the owner's statement.
        for one, service in zip(visits, verified, strict=True):
            receipt = verify_receipt(
                one.receipt, keyset=service.keyset, statement=service.statement, request=BODY, response=one.response
            )
            assert receipt.model == NAME
        # The release contains no TLS key.
        sealed = {file.path for file in parse_index((release_of(here) / INDEX_FILE).read_bytes()).files}
        assert "tls/clients.cfg" in sealed
        assert "tls/ssl.cfg" not in sealed
        # Each replica attested, and the log states the steps.
        for log in here.site.workspace.host.logs.glob("replica-*.log"):
            steps = [step.name for step in read_steps(log)]
            assert steps.index("server") < steps.index("broker") < steps.index("mounts") < steps.index("key")
        # `status` reports no expiry of a certificate that the enclaves renew.
        status = here("status", "--json").json
        assert status["state"] == "well"
        assert status["warnings"] == []
        assert "service" not in {end["certificate"] for end in status["certificates"]}
        # Evidence of one connection is refused on a connection that ends at another replica.
        first = visits[0]
        other = next(one for one in visits if one.presented.certificate != first.presented.certificate)
        relayed = PresentedService(
            evidence=first.presented.evidence, nonce=first.presented.nonce, certificate=other.presented.certificate
        )
        with pytest.raises(StepFailedError, match=r"Step 6 of 6 \(connection\) failed"):
            relayed.verify(policy, now=now)


def test_with_one_way_tls_a_release_has_no_tls_settings(capsys: pytest.CaptureFixture[str]) -> None:
    with attested(capsys, tls="one-way", target={"replicas": 1}) as here:
        assert visit(here, certificate=False).answer == ANSWER
        assert not (release_of(here) / "tls").exists()


def test_a_release_that_the_broker_refuses_states_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    with attested(capsys, target={"replicas": 1}) as here:
        here.kill("replica-0")
        with Owner.open(here.site.workspace).database() as database:
            past = datetime.now(UTC) - timedelta(hours=1)
            admin.drain(database, release_of(here).name, deadline=past + timedelta(seconds=1), now=past)

        refused = here.process("up", "--json")

        assert refused.status == 4, refused
        assert refused.json["error"]["code"] == "process.ended"
        assert "error[attest.refused]: The broker rejects this enclave." in refused.json["error"]["message"]
