"""The attacks of the demo, grouped by attacker, and the check that refuses each of them."""

from collections.abc import Sequence

from sealserve.cli.console import Tell
from sealserve.cli.demo.attempts import Attempt
from sealserve.cli.demo.evidence_attacks import EvidenceAttacks
from sealserve.cli.demo.launch_attacks import LaunchAttacks
from sealserve.cli.demo.owner_attacks import OwnerAttacks
from sealserve.cli.demo.screen import Screen
from sealserve.cli.demo.stage import Stage
from sealserve.cli.demo.walk import Walk
from sealserve.workspace import Workspace


def run(workspace: Workspace, walk: Walk, screen: Screen, *, tell: Tell) -> None:
    """Carry out the attacks of the host, of a thief in the network, and of the owner.

    Raises:
        VerificationError: `demo.not-refused`: An attack was not refused, or was refused for the wrong reason.
    """
    tell("Setting up a genuine release, broker and platform")
    stage = Stage(workspace, walk)
    screen.step(
        0,
        "A genuine release, broker and platform are ready",
        "A genuine enclave serves the release. Its user pinned the owner's key and the vendor's root in her policy.",
    )
    carry_out([*LaunchAttacks(stage).attempts(), *EvidenceAttacks(stage).attempts(), *OwnerAttacks(stage).attempts()],
              screen, tell=tell)  # fmt: skip


def carry_out(attempts: Sequence[Attempt], screen: Screen, *, tell: Tell) -> None:
    """Carry out attacks and show them. Each attacker is introduced before the first of its attacks.

    Raises:
        VerificationError: `demo.not-refused`: An attack was not refused, or was refused for the wrong reason.
    """
    attacker = None
    for number, attempt in enumerate(attempts, start=1):
        if attempt.attacker is not attacker:
            attacker = attempt.attacker
            screen.heading("", f"Attacks of the {attacker.noun}. {attacker.means}")
        tell(f"The {attacker.noun} tries to {attempt.title}")
        result = attempt.carry_out()
        screen.step(
            number,
            f"The {attacker.noun} tries to {attempt.title}: {attempt.verdict}",
            attempt.explanation,
            *result.lines,
            mark=str(number),
        )
    failed = sum(not attempt.in_the_old_way for attempt in attempts)
    screen.heading("", f"All {failed} attacks on the attested service failed.")
