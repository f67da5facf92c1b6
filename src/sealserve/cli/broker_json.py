"""The JSON output of ``sealserve broker``. Only this module converts the broker's values to JSON.

The output is a stable interface for scripts: times are ISO 8601, and bytes are hexadecimal.
"""

from dataclasses import fields, is_dataclass
from datetime import datetime
from functools import singledispatch

from sealserve.broker.admin import KnownRelease
from sealserve.broker.audit import AuditRow
from sealserve.broker.database import reading
from sealserve.broker.releases import Reference
from sealserve.sgx.reference_values import parse_reference


@singledispatch
def encode(value: object) -> object:
    """Convert a value of the broker to JSON types. A dataclass without an encoder becomes an object of its fields."""
    return members(value) if is_dataclass(value) else value


def members(value: object) -> dict[str, object]:
    """Return the JSON object of a dataclass. Unlike the result of `encode`, it can get further members."""
    assert is_dataclass(value)  # noqa: S101
    return {field.name: encode(getattr(value, field.name)) for field in fields(value)}


@encode.register(list)
@encode.register(tuple)
def _(values: list[object] | tuple[object, ...]) -> object:
    return [encode(value) for value in values]


@encode.register
def _(value: datetime) -> object:
    return value.isoformat()


@encode.register
def _(value: bytes) -> object:
    return value.hex()


@encode.register
def _(value: KnownRelease) -> object:
    release = value.release
    return {
        "release_id": release.release_id,
        "name": release.name,
        "platform": release.platform,
        "state": release.state,
        "deadline": encode(release.deadline),
        "tcb_policy": release.policy.tcb.name,
        "enrolled_platforms_only": release.policy.enrolled_platforms_only,
        "manual_approval": release.policy.manual_approval,
        "key_id": release.key_id,
        "secret_form": release.secret_form,
        "created": encode(release.created),
        "enclaves": encode(value.enclaves),
    }


@encode.register
def _(value: Reference) -> object:
    with reading("reference_values"):
        values = parse_reference(value.values)
    shown = ("mr_enclave", "mr_signer", "isv_prod_id", "isv_svn")
    return {"label": value.label, **{name: encode(getattr(values, name, None)) for name in shown}}


@encode.register
def _(value: AuditRow) -> object:
    columns = {field.name: encode(getattr(value.entry, field.name)) for field in fields(value.entry)}
    return {"seq": value.seq, **columns, "hash": value.hash}
