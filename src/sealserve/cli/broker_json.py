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
from sealserve.sgx.reference_values import ReferenceValues


@singledispatch
def encode(value: object) -> object:
    """Convert a value of the broker to JSON types. A dataclass without an encoder becomes an object of its fields."""
    if is_dataclass(value):
        return {field.name: encode(getattr(value, field.name)) for field in fields(value)}
    return value


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
        "key_id": release.key_id,
        "created": encode(release.created),
        "enclaves": encode(value.enclaves),
    }


@encode.register
def _(value: Reference) -> object:
    with reading("reference_values"):
        values = ReferenceValues.from_json(value.values)
    shown = ("mr_enclave", "mr_signer", "isv_prod_id", "isv_svn")
    return {"label": value.label, **{name: encode(getattr(values, name)) for name in shown}}


@encode.register
def _(value: AuditRow) -> object:
    columns = {field.name: encode(getattr(value.entry, field.name)) for field in fields(value.entry)}
    return {"seq": value.seq, **columns, "hash": value.hash}
