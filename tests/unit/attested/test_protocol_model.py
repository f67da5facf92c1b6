"""All interleavings of the protocol: no attack with every rule, and the known attacks without one of them."""

import pytest
from scripts.attested_example import Example
from tests.harness.protocol_model import Model, Stolen, switch_off_keysets


@pytest.mark.parametrize(("stolen", "pinned"), [("broker", False), ("enclave", False), ("enclave", True)])
def test_no_attack_exists_with_every_rule(example: Example, stolen: Stolen, pinned: bool) -> None:
    found = Model(example, stolen=stolen, pinned=pinned).explore()
    assert found.attack is None
    assert found.states >= 1000


def test_without_the_nonce_a_stolen_key_replays_old_evidence(example: Example) -> None:
    assert Model(example, stolen="enclave", off="nonce").explore().attack == (
        "user 0 connects to the attacker with the stolen key",
        "user 0 accepts the attacker with the stolen key",
    )


def test_without_the_exporter_a_stolen_key_of_the_broker_diverts_the_release_key(example: Example) -> None:
    found = Model(example, stolen="broker", off="exporter").explore().attack
    assert found is not None
    assert sorted(found[:-1]) == [
        "the attacker challenges enclave session 0 as the broker",
        "the attacker opens broker session 0",
    ]
    assert found[-1] == "the broker releases the key to the attacker in session 0"


def test_without_the_keyset_the_host_relays_evidence_for_its_own_key(
    example: Example, monkeypatch: pytest.MonkeyPatch
) -> None:
    switch_off_keysets(monkeypatch)
    assert Model(example, stolen="enclave", pinned=True, off="keyset").explore().attack == (
        "user 0 connects to the attacker with the attacker key",
        "user 0 accepts the attacker with the attacker key",
    )


def test_without_the_keyset_the_attestation_result_still_covers_the_tls_key(
    example: Example, monkeypatch: pytest.MonkeyPatch
) -> None:
    switch_off_keysets(monkeypatch)
    assert Model(example, stolen="enclave", off="keyset").explore().attack is None


def test_without_the_nonce_the_exporter_still_binds_the_session(example: Example) -> None:
    assert Model(example, stolen="broker", off="nonce").explore().attack is None


def test_a_stolen_key_of_the_running_enclave_is_not_covered(example: Example) -> None:
    """The user's TLS library exports no keying material. docs/explanation/attested-serving.md states this limit."""
    assert Model(example, stolen="running enclave").explore().attack == (
        "user 0 connects to the attacker with the stolen key",
        "user 0 accepts the attacker with the stolen key",
    )
