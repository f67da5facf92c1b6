"""The key services that ``sealserve.toml`` names. A new kind of service is a `KeyWrapper` and a function here."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from sealserve.broker.key_wrapper import KeyWrapper
from sealserve.broker.pkcs11_key import Pkcs11Key
from sealserve.broker.transit import TransitKey
from sealserve.deployment import KeystoreSection


@dataclass(frozen=True, slots=True)
class KeyServices:
    """The key services of a deployment, by kind.

    Args:
        named: The services whose settings are present.
        kind: The kind that encrypts new keys, or ``file``.
    """

    named: dict[str, KeyWrapper]
    kind: str

    @property
    def current(self) -> KeyWrapper | None:
        """The service that encrypts new keys, or None if the master key file encrypts them."""
        return self.named.get(self.kind)

    @property
    def by_preference(self) -> tuple[KeyWrapper, ...]:
        """All services, the current service first."""
        return tuple(self.named[kind] for kind in sorted(self.named, key=lambda kind: kind != self.kind))


@contextlib.contextmanager
def key_services(settings: KeystoreSection) -> Iterator[KeyServices]:
    """Yield the key services, and close their connections at the end.

    A service whose settings are present decrypts the keys that it encrypted, whatever ``kind`` is.

    Raises:
        InputError: `keystore.transit-settings` or `keystore.pkcs11-settings` if a setting is invalid.
    """
    with contextlib.ExitStack() as stack:
        named: dict[str, KeyWrapper] = {}
        if transit := _transit_key(settings):
            named["transit"] = stack.enter_context(transit)
        if token := pkcs11_key(settings):
            named["pkcs11"] = stack.enter_context(token)
        yield KeyServices(named, settings.kind)


def pkcs11_key(settings: KeystoreSection) -> Pkcs11Key | None:
    """Return the key in the PKCS#11 token of the settings, or None without a token."""
    if settings.pkcs11_module is None or settings.pkcs11_token is None or settings.pkcs11_pin_file is None:
        return None
    return Pkcs11Key(
        settings.pkcs11_module,
        token=settings.pkcs11_token,
        key=settings.pkcs11_key,
        pin_file=settings.pkcs11_pin_file,
        serial=settings.pkcs11_serial,
    )


def _transit_key(settings: KeystoreSection) -> TransitKey | None:
    if settings.transit_url is None or settings.transit_token_file is None:
        return None
    return TransitKey(
        settings.transit_url,
        mount=settings.transit_mount,
        key=settings.transit_key,
        token_file=settings.transit_token_file,
        ca_file=settings.transit_ca_file,
        namespace=settings.transit_namespace,
    )
