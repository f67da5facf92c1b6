"""The sections ``[[model]]`` of ``sealserve.toml``."""

from typing import Annotated, Final, Self

from pydantic import Field, model_validator

from sealserve.deployment.section import Section
from sealserve.deployment.values import FilePath, SignerName
from sealserve.names import MOST_OPERATIONS, Name, OperationName
from sealserve.terms import LARGEST_VERSION, Precision

_SIGNER_KEYS: Final = ("signer_key", "signer_ca", "signer_identity", "signer_issuer", "signer_trust_file")
_SIGNERS: Final = (
    {"signer_key"},
    {"signer_ca", "signer_identity"},
    {"signer_identity", "signer_issuer"},
    {"signer_identity", "signer_issuer", "signer_trust_file"},
)
"""The combinations of settings that name a signer: a key, a certificate, or an identity of Sigstore."""
_OPTIMIZATION_KEYS: Final = (
    "optimize_inputs",
    "optimize_min_top1",
    "optimize_min_top5",
    "optimize_max_difference",
    "optimize_max_relative_difference",
)


class ModelSection(Section):
    """A served model and the location of its plaintext. Use [model] for one model, [[model]] for each of several."""

    name: Name = Field(description="the name that clients use to request the model")
    path: FilePath | None = Field(
        default=None, description="a frozen graph (.pb) or a SavedModel folder; relative to this file"
    )
    version: Annotated[int, Field(ge=0, le=LARGEST_VERSION)] = Field(
        default=1, description="the version that clients see; raise it to serve a new model"
    )
    inputs: tuple[str, ...] = Field(default=("input",), description="names of a frozen graph's input nodes")
    outputs: tuple[str, ...] = Field(default=("predict",), description="names of a frozen graph's output nodes")
    labels: tuple[Name, ...] = Field(default=(), description='names of this version, such as "stable"')
    tags: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        default=("serve",), description="tags that select the graph of the SavedModel to serve"
    )
    warm_up: bool = Field(
        default=False,
        description="add a warm-up request of zeros to a model without warm-up requests, so that the first user's "
        "request is as fast as the others",
    )
    dangerous_operations: tuple[OperationName, ...] = Field(
        default=(),
        max_length=MOST_OPERATIONS,
        description="operations that `sealserve model lint` rejects and that this model may still contain",
    )
    optimize: Precision | None = Field(
        default=None,
        description='"float32" or "bfloat16": seal a faster form of the model with this precision; by default, seal '
        "the model as it is",
    )
    optimize_inputs: FilePath | None = Field(
        default=None,
        description="inputs (.npz, by name) for the comparison of the faster form with the model; by default generated",
    )
    optimize_min_top1: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None,
        description="minimum share of rows with the same highest class in both (0.99 by default); otherwise the faster "
        "form is rejected",
    )
    optimize_min_top5: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None, description="minimum share of the five highest classes that both have in common"
    )
    optimize_max_difference: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(
        default=None, description="maximum absolute difference of a number in an output"
    )
    optimize_max_relative_difference: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(
        default=None,
        description="maximum mean difference, as a share of the largest number in an output (0.02 for bfloat16, 0.0001 "
        "for float32 by default)",
    )
    signature: FilePath | None = Field(
        default=None,
        description="OpenSSF Model Signing signature of the model (default: model.sig in or beside the model's folder)",
    )
    signer_key: FilePath | None = Field(
        default=None, description="the signer's public key (PEM), if the model must be signed with this key"
    )
    signer_ca: FilePath | None = Field(
        default=None, description="certificate authority (PEM) of the signer; needs signer_identity"
    )
    signer_identity: SignerName | None = Field(
        default=None,
        description="with signer_ca, the subject of the signer's certificate (RFC 4514); else an identity of Sigstore",
    )
    signer_issuer: SignerName | None = Field(
        default=None, description="the OpenID Connect issuer of an identity of Sigstore"
    )
    signer_trust_file: FilePath | None = Field(
        default=None, description="client trust configuration of Sigstore (JSON), to verify without network"
    )

    @property
    def trusts_a_signer(self) -> bool:
        """Whether the settings name a signer. The model must then have a valid signature."""
        return self.signer_key is not None or self.signer_identity is not None

    @model_validator(mode="after")
    def _one_signer(self) -> Self:
        named = {name for name in _SIGNER_KEYS if getattr(self, name) is not None}
        if named and named not in _SIGNERS:
            raise ValueError(
                "the signer is ambiguous or incomplete: set signer_key, or signer_ca and signer_identity, or "
                "signer_identity and signer_issuer (optionally with signer_trust_file)"
            )
        if named and self.optimize is not None:
            raise ValueError(
                "optimize: the signature covers the original model, and not its faster form; run `sealserve model "
                "optimize`, have the result signed, and set path to it"
            )
        return self

    @model_validator(mode="after")
    def _optimized(self) -> Self:
        ignored = [name for name in _OPTIMIZATION_KEYS if getattr(self, name) is not None]
        if ignored and self.optimize is None:
            raise ValueError(f"{ignored[0]} has no effect without optimize: set optimize, or remove {ignored[0]}")
        return self
