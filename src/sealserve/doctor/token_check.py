"""The check of the PKCS#11 token that encrypts the release keys: log in, and use its key once."""

from collections.abc import Iterator

from sealserve.deployment import KeystoreSection
from sealserve.doctor.finding import Finding, Machine, Verdict
from sealserve.errors import SealserveError
from sealserve.owner.key_services import pkcs11_key


def token(settings: KeystoreSection) -> Iterator[Finding]:
    """Yield the finding about the token, if the settings name one."""
    found, remedy = "", ""
    try:
        key = pkcs11_key(settings)
        if key is None:
            return
        found = repr(key)
        with key:
            key.check()
    except SealserveError as error:
        found, remedy = error.message, error.hint or ""
    except ModuleNotFoundError:
        found, remedy = "python-pkcs11 is not installed", "install it: `pip install 'sealserve[pkcs11]'`"
    verdict = Verdict.MISSING if remedy else Verdict.OK
    yield Finding(machine=Machine.OWNER, name="PKCS#11 token", verdict=verdict, found=found, remedy=remedy)
