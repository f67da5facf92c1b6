"""Options of the verbs that verify a service by its evidence, and the user's policy that these options name."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sealserve.cli import console
from sealserve.cli.codes import CliCode
from sealserve.cli.deferred_imports import deferred

with deferred:
    from sealserve.regular_file import InputFileMissingError

if TYPE_CHECKING:  # the verification takes longer to import than the client, and not every request needs it
    from sealserve.attested.user_policy import UserPolicy
    from sealserve.client.attested import AttestedPolicy

PolicyFile = Annotated[
    Path | None,
    typer.Option(
        "--policy",
        envvar="SEALSERVE_POLICY",
        metavar="FILE",
        help="Your policy file, as `sealserve user trust` writes it",
        show_default="~/.config/sealserve/policy.toml",
    ),
]
RequireAttested = Annotated[
    bool,
    typer.Option("--require-attested", help="Verify the evidence of each replica before a byte of input is sent to it"),
]


def policy_path(path: Path | None) -> Path:
    """Return the path of the policy file: the given one, or the default."""
    from sealserve.client.policy_file import default_policy_file  # noqa: PLC0415

    return path or default_policy_file(os.environ, Path.home())


def find_policy(path: Path | None) -> "AttestedPolicy":
    """Return the user's policy.

    Raises:
        InputError: `client.no-policy`: The file does not exist.
        SealserveError: The file is invalid.
    """
    from sealserve.client.attested import read_policy  # noqa: PLC0415

    place = policy_path(path)
    try:
        found = read_policy(place)
    except InputFileMissingError as error:
        raise CliCode.CLIENT_NO_POLICY.error(
            f"The service cannot be verified: the policy file {place} does not exist.",
            hint="Ask the owner of the service for the owner's key over a trusted channel, and run "
            "`sealserve user trust OWNER_KEY`. Or give another file with --policy.",
        ) from error
    warn_of_dangers(place, found)
    return found


def warn_of_dangers(place: Path, policy: "UserPolicy") -> None:
    """Print a warning for each danger that a policy accepts.

    Args:
        place: The policy's file.
        policy: The policy.
    """
    if policy.dangerous_simulated_root is not None:
        console.warn(f"{place} accepts only simulated services, which protect nothing.")
    if policy.dangerous_shared_batches:
        console.warn(f"{place} accepts shared batches: a model can answer one user with the input of another user.")
    if policy.dangerous_operations:
        names = ", ".join(sorted(policy.dangerous_operations))
        console.warn(f"{place} accepts operations with which a model can keep or send an input: {names}.")


def required_policy(required: bool, path: Path | None) -> "AttestedPolicy | None":
    """Return the policy of --require-attested, or None without this option.

    Raises:
        InputError: `client.options`: There is a policy, but evidence is not required.
        SealserveError: As `find_policy`.
    """
    if required:
        return find_policy(path)
    if path is not None and "SEALSERVE_POLICY" not in os.environ:
        raise CliCode.CLIENT_OPTIONS.error(
            "--policy has no effect without --require-attested.", hint="Add --require-attested."
        )
    return None
