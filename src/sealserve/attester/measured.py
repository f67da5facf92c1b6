"""The measured environment of the enclave's program. The host cannot change it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sealserve.attester.codes import AttesterCode
from sealserve.enclave.environment import CA_VARIABLE, DEVICE_VARIABLE
from sealserve.enclave.launch.broker_addresses import broker_addresses
from sealserve.enclave.relay_address import RELAY_VARIABLE, RelayAddress
from sealserve.terms import PlatformKind

RELEASE_VARIABLE: Final = "SEALSERVE_RELEASE_ID"
PLATFORM_VARIABLE: Final = "SEALSERVE_PLATFORM"
_SERVERS: Final = "SECRET_PROVISION_SERVERS"
_KEY_NAME: Final = "SECRET_PROVISION_SET_KEY"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredSettings:
    """The settings of the enclave's program.

    Args:
        brokers: Hosts and ports of the brokers, in order of preference.
        broker_ca: The certificates of the broker's CA, PEM, from a measured file.
        device: The folder of the attestation device.
        key_name: The name of the release's key in the manifest.
        release_id: The id of the release.
        relay: The launcher's quote relay, or None. Only gramine-direct has one, and this variable is not measured.
    """

    brokers: tuple[tuple[str, int], ...]
    broker_ca: bytes
    device: Path
    key_name: str
    release_id: str
    relay: RelayAddress | None = None


def measured_settings(environment: Mapping[str, str]) -> MeasuredSettings:
    """Read the measured variables, and the file of the broker's CA.

    Raises:
        VerificationError: `attester.environment`: A variable is missing or invalid, or the file cannot be read.
        VerificationError: `provisioning.servers`: The list of brokers is invalid.
    """
    release_id = _value(environment, RELEASE_VARIABLE, r"[0-9a-f]{64}")
    authority = Path(_value(environment, CA_VARIABLE, r"/.+"))
    try:
        broker_ca = authority.read_bytes()
    except OSError as error:
        raise AttesterCode.ENVIRONMENT.error(
            f"The certificate of the broker's CA cannot be read: {authority}: {error.strerror or error}.",
            hint="Build the enclave again: `sealserve enclave build`.",
        ) from error
    return MeasuredSettings(
        brokers=tuple(broker_addresses(environment.get(_SERVERS, ""))),
        broker_ca=broker_ca,
        device=Path(_value(environment, DEVICE_VARIABLE, r"/.+")),
        key_name=_value(environment, _KEY_NAME, r"[A-Za-z0-9_-]+"),
        release_id=release_id,
        relay=_relay(environment),
    )


def _relay(environment: Mapping[str, str]) -> RelayAddress | None:
    """Return the address of the quote relay, which only a simulated enclave accepts. Its token is never shown."""
    value = environment.get(RELAY_VARIABLE)
    if value is None:
        return None
    if environment.get(PLATFORM_VARIABLE) != PlatformKind.SIMULATED:
        raise AttesterCode.ENVIRONMENT.error(
            f"The variable {RELAY_VARIABLE} is only for simulated enclaves: expected {PLATFORM_VARIABLE} = "
            f"{PlatformKind.SIMULATED.value!r}, got {environment.get(PLATFORM_VARIABLE)!r}.",
            hint="Build the enclave again with `sealserve enclave build`.",
        )
    if (relay := RelayAddress.parse(value)) is None:
        raise AttesterCode.ENVIRONMENT.error(
            f"The variable {RELAY_VARIABLE} is invalid: expected PORT/TOKEN.",
            hint="Start the enclave with `sealserve enclave run --platform gramine-direct`.",
        )
    return relay


def _value(environment: Mapping[str, str], name: str, pattern: str) -> str:
    found = environment.get(name)
    if found is None or not re.fullmatch(pattern, found):
        raise AttesterCode.ENVIRONMENT.error(
            f"The measured variable {name} is {'missing' if found is None else f'invalid: got {found!r}'}.",
            hint="Build the enclave again with `sealserve enclave build`. The host cannot set this variable.",
        )
    return found
