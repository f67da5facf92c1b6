"""The secrets that identify the owner to others. A lost secret is never replaced silently."""

from collections.abc import Iterable
from pathlib import Path

from sealserve.errors import UnavailableError


class IdentityLostError(UnavailableError):
    """A secret of the owner is missing, but files that depend on it exist. A new secret would be another identity.

    Args:
        what: The secret, for example "The key that signs releases".
        path: The expected file of the secret.
        evidence: A file that depends on the secret.
    """

    code = "owner.identity-lost"

    def __init__(self, what: str, path: Path, evidence: Path) -> None:
        super().__init__(
            f"{what} is missing: expected {path}, because {evidence} depends on it.",
            hint="Restore it from a backup with `sealserve restore`. "
            "If it was stolen, replace it as described in docs/how-to/loss-and-theft.md.",
        )


def require_first_use(what: str, path: Path, evidence: Iterable[Path]) -> None:
    """Check that a missing secret never existed, so that it may be created.

    Args:
        what: The secret, as a noun with its article.
        path: File in which the secret will be created.
        evidence: Files that exist only if the secret existed before.

    Raises:
        IdentityLostError: One of the files in ``evidence`` exists.
    """
    for file in evidence:
        if file.exists():
            raise IdentityLostError(what, path, file)
