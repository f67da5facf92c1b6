"""Signing of models with a key of the owner, in the form of OpenSSF Model Signing (OMS, version 1.0).

The signature covers the SavedModel that is sealed, with each of its files. Anyone who has this SavedModel can verify it
with the public tool: ``model_signing verify key``.
"""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from sealserve.attested.release_statement import ModelSigner
from sealserve.errors import SealserveError
from sealserve.owner.codes import OwnerCode
from sealserve.owner.model_signature import CURVES, key_digest
from sealserve.regular_file import InputFileError, read_regular
from sealserve.sealing.file_tree import regular_files
from sealserve.sealing.model_signature import SignedModel, parse_signature


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeSignature:
    """A new signature.

    Attributes:
        signed: The signer and the signed files.
        content: The signature file.
    """

    signed: SignedModel
    content: bytes


def read_signing_key(path: Path) -> ModelSigner:
    """Read a private key, and return it as a signer.

    Raises:
        InputError: `model-signature.key` if the file is not a key on P-256, P-384 or P-521 without a passphrase.
    """
    try:
        key = load_pem_private_key(read_regular(path), password=None)
    except InputFileError as error:
        raise _unusable(path, error.reason) from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: the key has a passphrase
        raise _unusable(path, "expected a PEM file with a private key without a passphrase") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, CURVES):
        raise _unusable(path, "expected a key on P-256, P-384 or P-521")
    return ModelSigner(method="key", identity=key_digest(key.public_key()), issuer=None)


def sign(folder: Path, key: Path) -> MadeSignature:
    """Sign a SavedModel.

    Args:
        folder: The SavedModel.
        key: The private key.

    Raises:
        InputError: `model-signature.key` if the key cannot be used.
        SealserveError: As `sealserve.sealing.file_tree.regular_files`.
    """
    # The package is an extra, and few owners sign models.
    from model_signing import hashing, signing  # noqa: PLC0415

    signer = read_signing_key(key)
    regular_files(folder)  # the package would follow links, or raise an error of its own
    # By default, the package leaves out the files of git. A sealed file must not be left out.
    every_file = hashing.Config().use_file_serialization(hashing_algorithm="sha256")
    every_file.set_ignored_paths(paths=[], ignore_git_paths=False)
    config = signing.Config().use_elliptic_key_signer(private_key=key).set_hashing_config(every_file)
    with TemporaryDirectory(prefix="sealserve-") as private:
        made = Path(private, "signature.json")
        config.sign(folder, made)
        content = made.read_bytes()
    files = parse_signature(content, name="the new signature").files
    return MadeSignature(signed=SignedModel(signer=signer, files=files), content=content)


def _unusable(path: Path, reason: str) -> SealserveError:
    return OwnerCode.MODEL_SIGNATURE_KEY.error(
        f"The model cannot be signed: {path}: {reason}.",
        hint="Create a key: `openssl ecparam -name prime256v1 -genkey -noout -out model.key`.",
    )
