"""The owner's secrets that others know the owner by: one that was lost is never replaced in silence."""

from collections.abc import Iterable
from pathlib import Path

from sealserve.errors import UnavailableError


class IdentityLostError(UnavailableError):
    """A secret of the owner's is gone, and what depends on it is still there: a new one would be another identity.

    Args:
        what: The secret, for example "The key that signs releases".
        path: Where it was.
        evidence: What depends on it.
    """

    code = "owner.identity-lost"

    def __init__(self, what: str, path: Path, evidence: Path) -> None:
        super().__init__(
            f"{what} is missing ({path}), and {evidence} depends on it.",
            hint="Restore it from a backup with `sealserve restore`. "
            "If it was stolen, replace it as docs/how-to/loss-and-theft.md describes.",
        )


def require_first_use(what: str, path: Path, evidence: Iterable[Path]) -> None:
    """Check that a secret which is not there was never there, so that it may be made.

    Args:
        what: The secret, as a noun with its article.
        path: Where it is made.
        evidence: Files that exist only after it was made.

    Raises:
        IdentityLostError: There is evidence of an earlier one.
    """
    for file in evidence:
        if file.exists():
            raise IdentityLostError(what, path, file)
