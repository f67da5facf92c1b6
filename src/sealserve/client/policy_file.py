"""The user's policy file: its default path, and the file that pins an owner's key.

The file is the user's own. Nothing in it comes from the owner or the host, except what the user decided to trust.
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from sealserve.attested.user_policy import LARGEST_FILE, parse_user_policy
from sealserve.client.codes import ClientCode
from sealserve.regular_file import read_regular

_HEX_DIGITS: Final = 64
_HEADER: Final = "# The services that this user accepts. docs/reference/attestation-protocol.md describes all keys.\n"


def default_policy_file(environment: Mapping[str, str], home: Path) -> Path:
    """Return the path of the policy file unless the user gives a path.

    Source: XDG Base Directory Specification 0.8. A relative path in the variable is ignored, as it requires.
    """
    base = Path(environment.get("XDG_CONFIG_HOME", ""))
    return (base if base.is_absolute() else home / ".config") / "sealserve" / "policy.toml"


def parse_owner_key(text: str) -> bytes:
    """Return an owner's public key, 32 bytes: from 64 hexadecimal digits, or from a PEM file that ``text`` names.

    Raises:
        InputFileError: The file does not exist or cannot be read.
        InputError: `client.owner-key`: The file is not an Ed25519 public key in PEM.
    """
    digits = text.strip().lower()
    if len(digits) == _HEX_DIGITS and all(digit in "0123456789abcdef" for digit in digits):
        return bytes.fromhex(digits)
    try:
        key = load_pem_public_key(read_regular(Path(text), limit=LARGEST_FILE))
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise ClientCode.OWNER_KEY.error(
            f"The owner's key is invalid: expected 64 hexadecimal digits, or a file with an Ed25519 public key in PEM, "
            f"got {text[:200]!r}.",
            hint="Ask the owner for the key over a trusted channel. On the owner's machine, it is in "
            ".sealserve/host/owner.pub.",
        )
    return key.public_bytes_raw()


def trusting(
    content: bytes | None,
    *,
    owner_key: bytes,
    releases: Sequence[str] = (),
    preset: str | None = None,
    dangerous_operations: Sequence[str] = (),
    dangerous_shared_batches: bool = False,
    dangerous_simulated_root: str | None = None,
) -> bytes:
    """Return a policy file that also pins an owner's key. Comments in the former content are lost.

    Args:
        content: The present content of the file, or None to create one.
        owner_key: The owner's public key, 32 bytes.
        releases: Ids of releases to pin in addition.
        preset: The preset of accepted TCB statuses, instead of the present one.
        dangerous_operations: Operations to accept in addition, although the model lint rejects them.
        dangerous_shared_batches: Whether to accept batches with the requests of several users from now on.
        dangerous_simulated_root: The root certificate of a simulated vendor, PEM, instead of the present one.

    Raises:
        InputError: `user-policy.invalid`: The present content or a new value is invalid.
        InputError: `user-policy.empty`: The present content pins nothing.
    """
    values: dict[str, Any] = {"version": 1}
    if content is not None:
        parse_user_policy(content)
        values = tomllib.loads(content.decode())
    values["owner_keys"] = _union(values.get("owner_keys", []), [owner_key.hex()])
    if releases:
        values["releases"] = _union(values.get("releases", []), releases)
    if preset is not None:
        values["tcb"] = {"preset": preset}
    if dangerous_operations:
        values["dangerous_operations"] = _union(values.get("dangerous_operations", []), dangerous_operations)
    if dangerous_shared_batches:
        values["dangerous_shared_batches"] = True
    if dangerous_simulated_root is not None:
        values["dangerous_simulated_root"] = dangerous_simulated_root
    made = (_HEADER + _render(values)).encode()
    parse_user_policy(made)
    return made


def _union(present: Sequence[str], more: Sequence[str]) -> list[str]:
    return list(dict.fromkeys([*present, *more]))


def _render(values: Mapping[str, Any]) -> str:
    """Return the content of a policy file as TOML. It has values, tables of values, and one table of lists."""
    lines = [f"{name} = {_value(value)}" for name, value in values.items() if not _is_table(value)]
    for name, value in values.items():
        if isinstance(value, Mapping):
            nested = {key: item for key, item in value.items() if isinstance(item, Mapping)}
            plain = {key: item for key, item in value.items() if key not in nested}
            lines += ["", f"[{name}]", *(f"{key} = {_value(item)}" for key, item in plain.items())]
            for key, item in nested.items():
                lines += ["", f"[{name}.{key}]", *(f"{inner} = {_value(found)}" for inner, found in item.items())]
        elif _is_table(value):
            for item in value:
                lines += ["", f"[[{name}]]", *(f"{key} = {_value(found)}" for key, found in item.items())]
    return "\n".join(lines) + "\n"


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list) and any(isinstance(item, Mapping) for item in value))


def _value(value: Any) -> str:
    # JSON's texts, integers and lists of texts are also TOML, because all texts in a valid policy are ASCII.
    return json.dumps(value)
