"""The JSON documents of the operations on certificate, token keys, collateral and notifications."""

import json
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, Field

from sealserve.attestation.json_web_keys import MAXIMUM_KEYS, JsonWebKeySet
from sealserve.broker.administration.documents import ReplyDocument, RequestDocument
from sealserve.broker.administration.interface import SentTest
from sealserve.broker.server_identity import BrokerCertificate
from sealserve.broker.stored_collateral import StoredDocument
from sealserve.terms import CollateralUpdate, PlatformKind

_Coordinate = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{43}$")]


class CertificateReply(ReplyDocument):
    """The broker's certificate, as a running broker checks it."""

    exists: bool
    """Whether the broker has a certificate. Otherwise, the other members are null."""
    ends: AwareDatetime | None
    """The expiry time. Null if the certificate cannot be used."""
    problem: str | None
    """Why a running broker keeps its former certificate. Null if it accepts this certificate."""

    @classmethod
    def of(cls, certificate: BrokerCertificate | None) -> Self:
        """Convert the state of the certificate."""
        if certificate is None:
            return cls(exists=False, ends=None, problem=None)
        return cls(exists=True, ends=certificate.ends, problem=certificate.problem)

    def value(self) -> BrokerCertificate | None:
        """Return the state that the document describes."""
        return BrokerCertificate(ends=self.ends, problem=self.problem) if self.exists else None


class TokenKeyReply(ReplyDocument):
    """A public key that verifies attestation results (RFC 7517)."""

    kty: Literal["EC"]
    crv: Literal["P-256"]
    x: _Coordinate
    y: _Coordinate
    kid: _Coordinate
    """The thumbprint of the key (RFC 7638)."""
    alg: Literal["ES256"]
    use: Literal["sig"]


class TokenKeysReply(ReplyDocument):
    """A JWK set: the current key first, then former keys."""

    keys: Annotated[list[TokenKeyReply], Field(min_length=1, max_length=MAXIMUM_KEYS)]

    @classmethod
    def of(cls, published: JsonWebKeySet) -> Self:
        """Convert a set of keys."""
        return cls(keys=[TokenKeyReply.model_validate(dict(key.to_members())) for key in published.keys])

    def value(self) -> JsonWebKeySet:
        """Return the set that the document describes. Each key is checked.

        Raises:
            InputError: `jwks.key` if a key is invalid.
        """
        return JsonWebKeySet.parse(json.dumps(self.model_dump()).encode())


class RotateTokenKeyRequest(RequestDocument):
    """The replacement of the key that signs attestation results."""

    compromised: Annotated[bool, Field(strict=True)] = False
    """Whether former keys are removed from the published set, so that their tokens no longer verify."""


class StoredDocumentReply(ReplyDocument):
    """A stored document of collateral."""

    platform: PlatformKind
    document: str
    subject: str | None
    update: CollateralUpdate
    evaluation_number: int | None
    issued: AwareDatetime
    valid_until: AwareDatetime
    fetched: AwareDatetime
    url: str

    @classmethod
    def of(cls, stored: StoredDocument) -> Self:
        """Convert a stored document."""
        return cls(**{name: getattr(stored, name) for name in cls.model_fields})

    def value(self) -> StoredDocument:
        """Return the stored document that the document describes."""
        return StoredDocument(**{name: getattr(self, name) for name in type(self).model_fields})


class CollateralReply(ReplyDocument):
    """The stored documents of collateral."""

    documents: list[StoredDocumentReply]


class SentTestReply(ReplyDocument):
    """A test notification that the receiver accepted."""

    receiver: str
    """The receiver's scheme, host and port, without the path."""
    status: Annotated[int, Field(ge=200, le=299)]
    """The HTTP status of the receiver's reply."""

    @classmethod
    def of(cls, sent: SentTest) -> Self:
        """Convert the result of a test."""
        return cls(receiver=sent.receiver, status=sent.status)

    def value(self) -> SentTest:
        """Return the result that the document describes."""
        return SentTest(receiver=self.receiver, status=self.status)
