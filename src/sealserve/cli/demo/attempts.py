"""An attack of the demo: who attacks, what is tried, and the check that must refuse it."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from sealserve.attested.verification import StepFailedError
from sealserve.cli.codes import CliCode
from sealserve.cli.demo.evidence import shortened
from sealserve.errors import SealserveError


class Attacker(Enum):
    """Who attacks: the name in titles, and what the attacker has."""

    HOST = (
        "host",
        (
            "The host changes files, starts other enclaves on other platforms, and ends users' connections itself. It "
            "also has the client certificate of an accomplice. It has neither the owner's keys nor the vendor's keys."
        ),
    )
    NETWORK = (
        "thief",
        "The thief stole the TLS key of the owner's broker, so enclaves accept the thief's machine as the broker.",
    )
    OWNER = (
        "owner",
        (
            "The owner has her files and the host's files, and her machine is in the path between the user and "
            "the service. She wants to read the user's input."
        ),
    )

    def __init__(self, noun: str, means: str) -> None:
        self.noun = noun
        self.means = means


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why an attack failed.

    Args:
        code: Code of the error.
        message: Message of the error.
        by: The part that refused.
        facts: The details of the attempt, as labels and values.
    """

    code: str
    message: str
    by: str
    facts: tuple[tuple[str, str], ...] = ()

    @property
    def lines(self) -> tuple[tuple[str, str], ...]:
        """The lines of evidence."""
        return (*self.facts, ("refused by", self.by), ("error", f"{self.code}: {shortened(self.message)}"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What an attack found that no check can refuse, because the attacker only searches what she has."""

    facts: tuple[tuple[str, str], ...]

    @property
    def lines(self) -> tuple[tuple[str, str], ...]:
        """The lines of evidence."""
        return self.facts


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """An attack.

    Args:
        title: The attack, as the rest of the sentence "The host tries to ...".
        explanation: Why the attack matters, and why it fails.
        expected: Code of the error that must refuse the attack, or None if the attack must find nothing.
        act: Carries out the attack, and returns the result.
        attacker: Who attacks.
        verdict: The result in the title.
        in_the_old_way: Whether the attack is on a service whose TLS key the owner has. It succeeds, for comparison.
    """

    title: str
    explanation: str = ""
    expected: str | None
    act: Callable[[], Refusal | Findings]
    attacker: Attacker = Attacker.HOST
    verdict: str = "refused"
    in_the_old_way: bool = False

    def carry_out(self) -> Refusal | Findings:
        """Carry out the attack.

        Raises:
            VerificationError: `demo.not-refused`: The attack was refused for the wrong reason.
        """
        result = self.act()
        code = result.code if isinstance(result, Refusal) else None
        if code != self.expected:
            raise not_refused(
                f"The attack to {self.title} was refused for the wrong reason: expected {self.expected}, got {code}."
            )
        return result


def not_refused(message: str) -> SealserveError:
    """Return the error of an attack that was not refused, or was refused for the wrong reason."""
    return CliCode.DEMO_NOT_REFUSED.error(message)


def refused_by_user(act: Callable[[], object], *facts: tuple[str, str]) -> Refusal:
    """Return the refusal of a user's verification.

    Raises:
        VerificationError: `demo.not-refused`: The user accepted the service.
    """
    try:
        act()
    except StepFailedError as error:
        step = error.step
        return Refusal(
            code=error.cause.code,
            message=error.cause.message,
            by=f"the user, in step {step.number} of her verification ({step.title})",
            facts=facts,
        )
    raise not_refused("The attack was not refused: the user accepted the service.")
