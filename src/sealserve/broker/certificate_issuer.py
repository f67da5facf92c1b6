"""The broker's use of the issuing CA: it issues service certificates for the TLS keys of enclaves.

The certificate of the issuing CA is a file, which the owner can replace while the broker runs. Its private key is in
the keystore. The key is decrypted for each certificate, as a release key is, and wiped afterwards.
"""

from collections.abc import Callable
from datetime import datetime

from sealserve.broker import stored_key
from sealserve.broker.current_keystore import KeySource
from sealserve.broker.database import Database
from sealserve.broker.stored_key import KeyId
from sealserve.pki.issuing import IssuingCertificate
from sealserve.secret import SecretBytes


class ReadyIssuer:
    """An issuing CA with its decrypted private key, for one certificate. The caller wipes it.

    Args:
        certificate: The certificate of the issuing CA.
        key: Its private key.
    """

    def __init__(self, certificate: IssuingCertificate, key: SecretBytes) -> None:
        self.certificate = certificate
        self._key = key

    def issue(self, public_key_info: bytes, *, now: datetime, until: datetime) -> bytes:
        """Issue a certificate. See `IssuingCertificate.issue`."""
        return self.certificate.issue(public_key_info, key=self._key, now=now, until=until)

    def wipe(self) -> None:
        """Wipe the private key."""
        self._key.wipe()


class CertificateIssuer:
    """Issues service certificates. Several threads may use it at the same time.

    Args:
        certificate: Returns the newest certificate of the issuing CA.
        database: The database with the encrypted private key.
        keystore: Decrypts the private key.
    """

    def __init__(
        self, certificate: Callable[[], IssuingCertificate], *, database: Database, keystore: KeySource
    ) -> None:
        self._certificate = certificate
        self._database = database
        self._keystore = keystore

    def ready(self, now: datetime) -> ReadyIssuer:
        """Return the issuing CA with its private key. No writing transaction may be open.

        Args:
            now: The time on the owner's clock.

        Raises:
            VerificationError: `certificate.expired` if the certificate of the issuing CA has expired.
            InputError: `keystore.unknown-issuing-key` if the keystore does not contain its private key.
            SealserveError: The private key cannot be decrypted.
        """
        certificate = self._certificate()
        certificate.check(now)
        with self._database.read() as connection:
            stored = stored_key.find_issuing(connection, KeyId(certificate.key_id))
        return ReadyIssuer(certificate, self._keystore.decrypt(stored))
