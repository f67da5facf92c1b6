"""Replicas are verified once, at the user's clock, and refusals are not repeated for the service."""

import asyncio
import threading
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from scripts.attested_case import CaseBuilder
from scripts.attested_example import FIRST_TIME, NOW, Example, p256
from tests.harness.running_proxy import Clock

from sealserve.attested.evidence_conversation import EvidenceRequest, PresentedService
from sealserve.attested.user_policy import UserPolicy, parse_user_policy
from sealserve.attested.verification import StepFailedError
from sealserve.errors import SealserveError, UnavailableError
from sealserve.proxy import verifier as module
from sealserve.proxy.codes import ProxyCode
from sealserve.proxy.verifier import ReplicaVerifier, key_of


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Example:
    return Example(tmp_path_factory.mktemp("vendor") / "vendor")


@dataclass(slots=True)
class Source:
    """Returns the evidence of an enclave for a fresh nonce, or fails."""

    example: Example
    requests: int = 0
    failure: SealserveError | None = None

    def __call__(self, certificate: bytes) -> PresentedService:
        self.requests += 1
        if self.failure is not None:
            raise self.failure
        request = EvidenceRequest()
        return request.receive(self.example.service().answer(request.nonce), certificate=certificate)


def leaf(example: Example, what: str | None = None) -> bytes:
    key = example.tls_key if what is None else p256(what)
    return example.certificate_for(key).public_bytes(Encoding.DER)


def clock() -> Clock:
    return Clock(now=NOW + timedelta(seconds=FIRST_TIME))


def verifier(example: Example, now: Clock | None = None, policy: UserPolicy | None = None) -> ReplicaVerifier:
    return ReplicaVerifier(policy or example.policy, clock=now or clock())


def test_connections_to_a_replica_wait_for_one_verification(example: Example) -> None:
    source, checked = Source(example), verifier(example)

    async def connect() -> None:
        found = await asyncio.gather(*(checked.verify(leaf(example), source) for _ in range(20)))
        assert len({id(verification) for verification in found}) == 1
        assert found[0].until == example.result().expires

    asyncio.run(connect())
    assert source.requests == 1


def test_a_renewed_certificate_has_the_same_key(example: Example) -> None:
    issued = leaf(example)
    again = example.certificate_for(example.tls_key).public_bytes(Encoding.DER)
    assert key_of(issued) == key_of(again) != key_of(leaf(example, "another key"))
    assert key_of(b"not a certificate") == b"not a certificate"


def test_evidence_of_another_key_is_refused_and_the_refusal_is_repeated(
    example: Example, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, checked, other = Source(example), verifier(example), leaf(example, "the host's key")

    async def connect() -> None:
        for _ in range(3):
            with pytest.raises(StepFailedError) as caught:
                await checked.verify(other, source)
            assert caught.value.code == "evidence.tls-key"
        assert source.requests == 1
        monkeypatch.setattr(module, "_REFUSED_SECONDS", -1.0)
        with pytest.raises(StepFailedError):
            await checked.verify(other, source)
        assert source.requests == 2
        await checked.verify(leaf(example), source)  # other replicas are not affected

    asyncio.run(connect())


def test_a_malformed_certificate_is_refused(example: Example) -> None:
    with pytest.raises(StepFailedError) as caught:
        asyncio.run(verifier(example).verify(b"not a certificate", Source(example)))
    assert caught.value.code == "evidence.certificate"


def test_an_unreachable_replica_is_requested_again(example: Example) -> None:
    source, checked = Source(example, failure=ProxyCode.REPLICA_AWAY.error("away")), verifier(example)

    async def connect() -> None:
        for _ in range(2):
            with pytest.raises(UnavailableError):
                await checked.verify(leaf(example), source)
        source.failure = None
        await checked.verify(leaf(example), source)

    asyncio.run(connect())
    assert source.requests == 3


def test_expired_evidence_is_refused_for_a_known_key(example: Example) -> None:
    source, now = Source(example), clock()
    checked = verifier(example, now)

    async def connect() -> None:
        found = await checked.verify(leaf(example), source)
        assert not found.needs_refresh(now())
        now.now = found.until - timedelta(minutes=1)
        assert found.needs_refresh(now())
        assert await checked.verify(leaf(example), source) is found
        now.now = found.until
        with pytest.raises(StepFailedError) as caught:
            await checked.verify(leaf(example), source)
        assert caught.value.code == "token.expired"

    asyncio.run(connect())
    assert source.requests == 2


def test_without_a_result_evidence_counts_for_an_hour(example: Example, tmp_path: Path) -> None:
    policy = parse_user_policy(CaseBuilder(tmp_path, example).pinning().encode())
    now = clock()
    found = asyncio.run(verifier(example, now, policy).verify(leaf(example), Source(example)))
    assert found.service.result is None
    assert found.until == now() + timedelta(hours=1)


def test_the_end_does_not_wait_for_a_silent_service(example: Example) -> None:
    """Ctrl-C ends the proxy at once, although a thread still waits for evidence."""
    started, released = asyncio.Event(), threading.Event()

    async def connect() -> None:
        loop = asyncio.get_running_loop()

        def silent(_: bytes) -> PresentedService:
            loop.call_soon_threadsafe(started.set)
            released.wait()
            raise ProxyCode.REPLICA_AWAY.error("away")

        task = asyncio.create_task(verifier(example).verify(leaf(example), silent))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(connect())  # it returns, although the thread still waits
    assert not released.is_set()
    released.set()
