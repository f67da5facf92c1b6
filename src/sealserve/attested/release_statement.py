"""The release statement: what the owner states about one release, signed for users.

The statement is public. It contains digests and measurements, and neither a model's content nor an id of a platform.
The owner can sign a newer statement for the same release, for example after the broker's token key was replaced.
"""

from collections.abc import Iterable
from typing import Annotated, ClassVar, Final, Literal, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import Field, StringConstraints, model_validator

from sealserve.attestation.attest_messages import MAXIMUM_STATEMENT
from sealserve.attestation.json_web_keys import JsonWebKey, JsonWebKeySet
from sealserve.attestation.result import MAXIMUM_AUDIENCE
from sealserve.attestation.strict_document import LARGEST_INTEGER, SignedContent, StrictDocument
from sealserve.attested.codes import AttestedCode
from sealserve.canonical_document import DocumentPart, Sha256
from sealserve.errors import SealserveError
from sealserve.model_digest import model_digest as model_digest  # noqa: PLC0414  # a part of this module's interface
from sealserve.names import MOST_OPERATIONS, Name, OperationName
from sealserve.sgx.reference_values import ReferenceValues
from sealserve.sgx.report import MrEnclave, MrSigner

DOMAIN: Final = b"sealserve-attest/1 release statement\n"
"""The prefix of the signed bytes. It separates statements from the other documents that the owner's key signs."""
_MASKED: Final = ("attribute_flags", "attribute_flags_mask", "xfrm", "xfrm_mask")

_Word = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
_Short = Annotated[int, Field(ge=0, le=2**16 - 1)]
_Text = Annotated[str, StringConstraints(min_length=1, max_length=255)]


class ModelSigner(DocumentPart):
    """The signer of a model, from an OpenSSF Model Signing (OMS) signature that the owner verified.

    Attributes:
        method: How the signature verified: an identity of Sigstore, a certificate, or a public key.
        identity: The identity, the subject of the certificate, or SHA-256 of the public key.
        issuer: The issuer of the identity or certificate, or `None` for a key.
    """

    method: Annotated[Literal["sigstore", "certificate", "key"], Field(description="How the signature verified.")]
    identity: Annotated[
        _Text, Field(description="The identity of Sigstore, the subject of the certificate, or SHA-256 of the key.")
    ]
    issuer: Annotated[
        _Text | None, Field(description="The issuer of the identity or certificate. For a key, it is null.")
    ]


class StatedModel(DocumentPart):
    """One version of a model in the release.

    Attributes:
        name: The name that users request.
        version: The version as decimal digits, because a version can be larger than the integers of JSON.
        sha256: The digest of the model's files, see `model_digest`.
        allowed_operations: The operations that the owner allowed for this model in spite of sealserve's lint. An empty
            list means that the lint accepts the model without exception.
        signer: The signer of the model, or `None` if it came without a signature.
    """

    name: Name
    version: Annotated[str, StringConstraints(pattern=r"^(0|[1-9][0-9]{0,18})$")]
    sha256: Sha256
    allowed_operations: Annotated[tuple[OperationName, ...], Field(max_length=MOST_OPERATIONS)]
    signer: ModelSigner | None


class StatedEnclave(DocumentPart):
    """The reference values of one enclave of the release, as `sealserve.sgx.reference_values.ReferenceValues`.

    Attributes:
        mr_enclave: MRENCLAVE.
        mr_signer: MRSIGNER.
        isv_prod_id: The exact product id.
        isv_svn: The minimum security version.
        attribute_flags: The flags of ATTRIBUTES, where the mask has a bit: 16 hexadecimal digits, as a number.
        attribute_flags_mask: The flags to compare.
        xfrm: XFRM, where the mask has a bit.
        xfrm_mask: The bits of XFRM to compare.
    """

    mr_enclave: Sha256
    mr_signer: Sha256
    isv_prod_id: _Short
    isv_svn: _Short
    attribute_flags: _Word
    attribute_flags_mask: _Word
    xfrm: _Word
    xfrm_mask: _Word

    @classmethod
    def of_values(cls, values: ReferenceValues) -> Self:
        """Return the entry with reference values."""
        return cls(
            mr_enclave=values.mr_enclave.hex(),
            mr_signer=values.mr_signer.hex(),
            isv_prod_id=values.isv_prod_id,
            isv_svn=values.isv_svn,
            **{name: f"{getattr(values, name):016x}" for name in _MASKED},
        )

    @property
    def values(self) -> ReferenceValues:
        """The reference values.

        Raises:
            InputError: `policy.reference-values` if the values are empty or would accept a debug enclave.
        """
        return ReferenceValues(
            mr_enclave=MrEnclave(bytes.fromhex(self.mr_enclave)),
            mr_signer=MrSigner(bytes.fromhex(self.mr_signer)),
            isv_prod_id=self.isv_prod_id,
            isv_svn=self.isv_svn,
            **{name: int(getattr(self, name), 16) for name in _MASKED},
        )


class StatedPolicy(DocumentPart):
    """The owner's appraisal policy. It is not included, because it can list platforms, which users must not recognize.

    Attributes:
        name: The policy's name.
        sha256: SHA-256 of the policy as JSON. The attestation result contains it too.
    """

    name: _Text
    sha256: Sha256


class StatedBroker(DocumentPart):
    """A broker whose attestation results are valid for the release.

    Attributes:
        name: The broker's name: ``iss`` in its tokens.
        keys: Its public keys as JSON web keys.
    """

    name: Annotated[str, StringConstraints(pattern=rf"^[!-~]{{1,{MAXIMUM_AUDIENCE}}}$")]
    keys: Annotated[tuple[dict[str, str], ...], Field(min_length=1, max_length=8)]

    @classmethod
    def of_keys(cls, name: str, keys: JsonWebKeySet) -> Self:
        """Return the entry of a broker."""
        return cls(name=name, keys=tuple(dict(key.to_members()) for key in keys.keys))

    @property
    def key_set(self) -> JsonWebKeySet:
        """The keys.

        Raises:
            InputError: `jwks.key` or `jwks.private` if a key is not accepted.
        """
        return JsonWebKeySet(JsonWebKey.parse(members) for members in self.keys)


class ReleaseStatement(StrictDocument):
    """The owner's statement about one release.

    Attributes:
        type: The kind of document.
        version: The version of the format.
        release_id: The release.
        shared_batches: Whether the server may compute the requests of several users in one batch. A model can then
            answer one user with the input of another user. Version 1 did not state it.
        issued: The time of the signature, in seconds since 1970-01-01 UTC. A newer statement replaces an older one.
        models: All models of the release.
        enclaves: The reference values of all enclaves of the release.
        policy: The owner's appraisal policy.
        brokers: The brokers that release the key.
    """

    what: ClassVar[str] = "release statement"
    limit: ClassVar[int] = MAXIMUM_STATEMENT

    type: Literal["sealserve.release-statement"] = "sealserve.release-statement"
    version: Literal[2] = 2
    release_id: Sha256
    shared_batches: bool
    issued: Annotated[int, Field(ge=0, le=LARGEST_INTEGER)]
    models: Annotated[tuple[StatedModel, ...], Field(min_length=1, max_length=64)]
    enclaves: Annotated[tuple[StatedEnclave, ...], Field(min_length=1, max_length=16)]
    policy: StatedPolicy
    brokers: Annotated[tuple[StatedBroker, ...], Field(max_length=8)]

    @model_validator(mode="after")
    def _lists_each_once(self) -> Self:
        for what, found in (
            ("model", [(model.name, model.version) for model in self.models]),
            ("enclave", [enclave.mr_enclave for enclave in self.enclaves]),
            ("broker", [broker.name for broker in self.brokers]),
        ):
            if len(set(found)) != len(found):
                raise ValueError(f"it lists a {what} twice")
        return self

    @property
    def allowed_operations(self) -> frozenset[str]:
        """The operations that the owner allowed for any of the models. The server then allows them for all models."""
        return frozenset(name for model in self.models for name in model.allowed_operations)

    def broker(self, name: str) -> StatedBroker | None:
        """Return the broker with this name, or `None`."""
        return next((broker for broker in self.brokers if broker.name == name), None)

    def enclave(self, mr_enclave: bytes) -> StatedEnclave | None:
        """Return the enclave with this MRENCLAVE, or `None`."""
        return next((enclave for enclave in self.enclaves if enclave.mr_enclave == mr_enclave.hex()), None)

    def model(self, name: str, version: str) -> StatedModel | None:
        """Return a version of a model, or `None`."""
        return next((model for model in self.models if (model.name, model.version) == (name, version)), None)


def sign_statement(statement: ReleaseStatement, owner_key: Ed25519PrivateKey) -> SignedContent:
    """Return the statement with the owner's signature.

    Args:
        statement: The statement.
        owner_key: The key that signs the owner's releases.
    """
    content = statement.to_bytes()
    return SignedContent(content=content, signature=owner_key.sign(DOMAIN + content))


def verify_statement(signed: SignedContent, owner_keys: Iterable[bytes]) -> ReleaseStatement:
    """Verify a statement and return it.

    1. One of the user's pinned keys signed exactly these bytes as a statement.
    2. Only then are the bytes parsed, so that only the owner can feed the parser.
    3. Its reference values are usable: they reject debug enclaves. Its broker keys are public P-256 keys.

    Args:
        signed: The statement and its signature.
        owner_keys: The pinned Ed25519 public keys, 32 bytes each.

    Raises:
        VerificationError: `statement.signature` in step 1, `document.*` in step 2, `statement.content` in step 3.
    """
    if not any(_signed(signed, key) for key in owner_keys):  # (1)
        raise AttestedCode.STATEMENT_SIGNATURE.error(
            "The release statement is not from the owner: no pinned owner key signed it.",
            hint="Compare the pinned key with the key that the owner published.",
        )
    statement = ReleaseStatement.parse(signed.content)  # (2)
    try:  # (3)
        for enclave in statement.enclaves:
            _ = enclave.values
        for broker in statement.brokers:
            _ = broker.key_set
    except SealserveError as error:
        raise AttestedCode.STATEMENT_CONTENT.error(
            f"The release statement contains an unusable value: {error.message}"
        ) from error
    return statement


def _signed(signed: SignedContent, key: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signed.signature, DOMAIN + signed.content)
    except InvalidSignature:
        return False
    return True
