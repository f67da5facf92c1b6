"""The administrator file: one JSON document with everything that an administrator needs to reach the broker.

It contains the administrator's private key, so it has mode 0600. It is one document instead of a folder, so that
reading it cannot open other files.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

from sealserve.atomic_file import PRIVATE, write_file
from sealserve.broker.codes import BrokerCode
from sealserve.errors import SealserveError
from sealserve.pki.certificate import CertifiedKey, check_key, parse_chain
from sealserve.private_file import read_private
from sealserve.secret import SecretBytes

_LARGEST: Final = 64 * 1024


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    format: Literal["sealserve-administrator"]
    version: Literal[1]
    name: str
    role: str
    server_name: str
    broker_ca: str
    certificate: str
    private_key: SecretStr


@dataclass(frozen=True, slots=True, kw_only=True)
class AdministratorFile:
    """The credentials of an administrator.

    Args:
        name: The administrator's name, for people. The certificate decides.
        role: The administrator's role, for people. The certificate decides.
        server_name: The DNS name in the broker's certificate.
        broker_ca: The certificate of the broker's CA, PEM.
        identity: The administrator's certificate and key.
    """

    name: str
    role: str
    server_name: str
    broker_ca: bytes = field(repr=False)
    identity: CertifiedKey = field(repr=False)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file that `write` wrote.

        Raises:
            PrivateFileExposedError: Other users can read the file.
            InputError: `administration.file` if the content is not an administrator file.
        """
        with read_private(path, what="administrator file", limit=_LARGEST) as content:
            try:
                found = _Document.model_validate(json.loads(content.reveal(), object_pairs_hook=_unique))
                identity = CertifiedKey(
                    key_pem=SecretBytes(found.private_key.get_secret_value().encode()),
                    chain_pem=found.certificate.encode(),
                )
            except ValidationError as error:
                first = error.errors(include_url=False, include_context=False, include_input=False)[0]
                where = ".".join(str(part) for part in first["loc"] if part in _Document.model_fields)
                raise _invalid(path, f"{where or 'the document'}: {first['msg']}") from None
            except (ValueError, RecursionError):
                raise _invalid(path, "expected one JSON object without duplicate names") from None
        try:
            check_key(identity.key_pem, identity.chain_pem, source="its certificate")
            parse_chain(found.broker_ca.encode(), source="its broker_ca")
        except SealserveError as error:
            raise _invalid(path, error.message.rstrip(".")) from None
        return cls(
            name=found.name,
            role=found.role,
            server_name=found.server_name,
            broker_ca=found.broker_ca.encode(),
            identity=identity,
        )

    def write(self, path: Path) -> None:
        """Write the file with mode 0600.

        Raises:
            OutputExistsError: The file already exists.
        """
        document = {
            "format": "sealserve-administrator",
            "version": 1,
            "name": self.name,
            "role": self.role,
            "server_name": self.server_name,
            "broker_ca": self.broker_ca.decode("ascii"),
            "certificate": self.identity.chain_pem.decode("ascii"),
            "private_key": self.identity.key_pem.reveal().decode("ascii"),
        }
        write_file(path, json.dumps(document, indent=2).encode() + b"\n", mode=PRIVATE, overwrite=False)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _invalid(path: Path, reason: str) -> SealserveError:
    return BrokerCode.ADMINISTRATION_FILE.error(
        f"{path} is not a valid administrator file: {reason}.",
        hint="Ask the owner for a new file: `sealserve broker admin issue`.",
    )
