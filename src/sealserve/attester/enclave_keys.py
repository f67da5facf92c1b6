"""The keys of one running enclave. They exist only in this process's memory, and are never written or sent."""

from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sealserve.attestation.attest_conversation import certificate_request
from sealserve.attestation.keyset import Keyset


@dataclass(frozen=True, slots=True, kw_only=True)
class EnclaveKeys:
    """The private keys, and the keyset with the public keys.

    Args:
        tls: The TLS key (P-256). Users' connections end at it.
        identity: The identity key (Ed25519). It signs users' nonces and receipts.
        keyset: The public keys.
    """

    tls: ec.EllipticCurvePrivateKey = field(repr=False)
    identity: Ed25519PrivateKey = field(repr=False)
    keyset: Keyset

    @classmethod
    def create(cls, release_id: str) -> "EnclaveKeys":
        """Create new keys.

        Args:
            release_id: The id of the release that the enclave serves.
        """
        tls, identity = ec.generate_private_key(ec.SECP256R1()), Ed25519PrivateKey.generate()
        keyset = Keyset.of_keys(release_id=release_id, tls=tls.public_key(), identity=identity.public_key())
        return cls(tls=tls, identity=identity, keyset=keyset)

    def certificate_request(self) -> bytes:
        """Return a certificate request for the TLS key, DER."""
        return certificate_request(self.tls)
