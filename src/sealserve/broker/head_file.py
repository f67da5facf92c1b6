"""Signed heads of the audit log as files, kept on another machine: rows that were cut off since are then noticed."""

from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from sealserve.broker.admin import HeadSummary
from sealserve.errors import InputError


class HeadFileError(InputError):
    """A file holds no signed head of an audit log."""

    code = "audit.head-file"


class _HeadFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    seq: Annotated[int, Field(ge=0, strict=True)]
    hash: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    time: AwareDatetime
    signature: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{128}$")]


def read_head(content: bytes, *, name: str) -> HeadSummary:
    """Return the head that `sealserve broker log --sign` printed; its signature is not verified here.

    Args:
        content: What the file holds.
        name: What to call it in messages.

    Raises:
        HeadFileError: It is none.
    """
    try:
        head = _HeadFile.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise HeadFileError(
            f"{name} holds no signed head of an audit log: {where}: {first['msg']}.",
            hint="`sealserve broker log --sign` writes one.",
        ) from error
    return HeadSummary(seq=head.seq, hash=head.hash, time=head.time.isoformat(), signature=head.signature)
