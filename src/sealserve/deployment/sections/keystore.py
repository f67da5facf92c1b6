"""The section ``[keystore]`` of ``sealserve.toml``."""

from typing import Literal, Self

from pydantic import Field, model_validator

from sealserve.deployment.section import Section
from sealserve.deployment.values import FilePath


class KeystoreSection(Section):
    """The location of the key that encrypts the release keys."""

    kind: Literal["file", "transit", "pkcs11"] = Field(
        default="file",
        description='"file" (owner/master.key), "transit" (the transit engine of Vault or OpenBao), or "pkcs11" '
        "(a PKCS#11 token)",
    )
    passphrase_file: FilePath | None = Field(
        default=None, description="a file (0600) with the passphrase of master.key, for unattended starts"
    )
    transit_url: str | None = Field(default=None, description="the URL of Vault or OpenBao: https://HOST:PORT")
    transit_mount: str = Field(default="transit", description="the mount path of the transit engine")
    transit_key: str = Field(default="sealserve", description="the name of the key in the transit engine")
    transit_token_file: FilePath | None = Field(
        default=None, description="a file (0600) with a token that may use the key"
    )
    transit_ca_file: FilePath | None = Field(
        default=None, description="CA certificates for transit_url; by default the system's CA certificates"
    )
    transit_namespace: str | None = Field(
        default=None, description="the namespace of the key, if namespaces are in use"
    )
    pkcs11_module: FilePath | None = Field(default=None, description="the PKCS#11 library of the token's vendor")
    pkcs11_token: str | None = Field(default=None, description="the label of the token")
    pkcs11_serial: str | None = Field(
        default=None, description="the serial number of the token, if several tokens have the same label"
    )
    pkcs11_key: str = Field(default="sealserve", description="the label of the AES key in the token")
    pkcs11_pin_file: FilePath | None = Field(default=None, description="a file (0600) with the PIN of the token's user")
    pkcs11_files: tuple[FilePath, ...] = Field(
        default=(),
        description="files and folders that the module needs in the broker's container, which sees them read-only at "
        "the same paths; only for the Docker target",
    )

    @model_validator(mode="after")
    def _transit_is_whole(self) -> Self:
        if (self.kind == "transit" or self.transit_url) and not (self.transit_url and self.transit_token_file):
            raise ValueError("kind = 'transit' requires transit_url and transit_token_file")
        return self

    @model_validator(mode="after")
    def _token_is_whole(self) -> Self:
        wanted = self.kind == "pkcs11" or self.pkcs11_module is not None
        if wanted and not (self.pkcs11_module and self.pkcs11_token and self.pkcs11_pin_file):
            raise ValueError("kind = 'pkcs11' requires pkcs11_module, pkcs11_token and pkcs11_pin_file")
        return self
