import pytest
from tests.harness.errors import raises

from sealserve.attested.codes import AttestedCode
from sealserve.attested.verification import Step, StepFailedError
from sealserve.cli.codes import CliCode
from sealserve.cli.demo.attack import carry_out
from sealserve.cli.demo.attempts import Attacker, Attempt, Findings, Refusal, refused_by_user
from sealserve.cli.demo.screen import Screen


def refuse() -> Refusal:
    return Refusal(code="broker.down", message=f"No broker {'ab' * 32}.", by="the enclave", facts=(("tried", "it"),))


def find_nothing() -> Findings:
    return Findings(facts=(("tried", "13 private keys"),))


RIGHT = Attempt(title="do that", expected="broker.down", act=refuse)


def shown(capsys: pytest.CaptureFixture[str], *attempts: Attempt) -> str:
    carry_out(attempts, Screen(as_json=False), tell=lambda _: None)
    return capsys.readouterr().out


def test_a_refusal_for_the_wrong_reason_fails_the_demo(capsys: pytest.CaptureFixture[str]) -> None:
    told: list[str] = []
    wrong = Attempt(title="do this", expected="quote.debug", act=refuse)
    with raises(CliCode.DEMO_NOT_REFUSED) as caught:
        carry_out([RIGHT, wrong], Screen(as_json=False), tell=told.append)
    assert caught.value.message == (
        "The attack to do this was refused for the wrong reason: expected quote.debug, got broker.down."
    )
    out = capsys.readouterr().out
    assert "1  The host tries to do that: refused  " in out
    assert "     tried       it\n     refused by  the enclave\n" in out
    assert "     error       broker.down: No broker abababababababab....\n" in out
    assert told[-1] == "The host tries to do this"


def test_an_attack_that_must_find_nothing_must_not_be_refused() -> None:
    searching = Attempt(title="search", expected=None, act=refuse)
    with raises(CliCode.DEMO_NOT_REFUSED, match="expected None, got broker.down"):
        searching.carry_out()


def test_each_attacker_is_introduced_once(capsys: pytest.CaptureFixture[str]) -> None:
    search = Attempt(title="search", expected=None, act=find_nothing, attacker=Attacker.OWNER, verdict="no key")
    old = Attempt(
        title="search again", expected=None, act=find_nothing, attacker=Attacker.OWNER, verdict="she reads it",
        in_the_old_way=True,
    )  # fmt: skip
    out = shown(capsys, RIGHT, RIGHT, search, old)
    assert out.count("Attacks of the host. ") == out.count("Attacks of the owner. ") == 1
    assert "3  The owner tries to search: no key  " in out
    assert "4  The owner tries to search again: she reads it  " in out
    assert "All 3 attacks on the attested service failed.\n" in out


def test_a_users_refusal_names_the_step() -> None:
    def verify() -> None:
        raise StepFailedError(Step.CONNECTION, AttestedCode.EVIDENCE_TLS_KEY.error("Another key."))

    assert refused_by_user(verify) == Refusal(
        code="evidence.tls-key", message="Another key.", by="the user, in step 6 of her verification (connection)"
    )
