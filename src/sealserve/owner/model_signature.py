"""Verification of a model's OpenSSF Model Signing signature (OMS, version 1.0), when a release is built.

The package ``model-signing`` (extra ``model-signing``) verifies the signature. It leaves the following to its caller:

- It reads files of any size. The signature is limited, and read once, so that all checks see the same bytes.
- It ignores ``.git`` and further files that the signature itself names. Here, each file that is sealed must be signed.
- It supports digests of parts of files, and several algorithms. Here, a digest is the SHA-256 of a whole file, because
  it is compared with the digest of the file that is sealed.
- It accepts a certificate that has expired, because it verifies the chain at the start of the certificate's validity.
  A signature has no trusted time, so a person with an old, stolen key could still sign. Here, the chain must be valid
  when the release is built.
- It accepts each certificate below the given authority. Here, the owner names the subject.

Source: sigstore/model-transparency 1.1.1 (``verifying.py``, ``_signing/sign_certificate.py``).
"""

import base64
import contextlib
import hashlib
import io
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from OpenSSL import crypto
from pydantic import ValidationError

from sealserve.attested.release_statement import ModelSigner
from sealserve.deployment import ModelSection
from sealserve.errors import SealserveError
from sealserve.model.source import SIGNATURE_FILE
from sealserve.owner.codes import OwnerCode
from sealserve.regular_file import InputFileError, InputFileMissingError, open_regular, read_regular
from sealserve.sealing.file_tree import regular_files
from sealserve.sealing.model_signature import (
    MAX_SIGNATURE,
    SignatureContent,
    SignedModel,
    compare_signed,
    parse_signature,
)
from sealserve.x509_errors import X509_ERRORS

CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
"""The curves of the keys that the package supports."""


def find_signature(model: ModelSection) -> Path | None:
    """Return the signature file of a model, or None.

    It is ``model.signature``, or else ``model.sig`` in or beside ``model.path``.
    """
    if model.signature is not None or model.path is None:
        return model.signature
    places = (model.path / SIGNATURE_FILE, model.path.parent / SIGNATURE_FILE)
    return next((place for place in places if place.is_file()), None)


def verify_model(
    model: ModelSection, folder: Path, *, now: datetime, warn: Callable[[str], None] | None = None
) -> SignedModel | None:
    """Verify the signature of a model, and return what it states. A model without trusted signer is not verified.

    1. The settings name whom the owner trusts. A signature without such a setting is only reported: a signature proves
       nothing unless the verifier knows who must have made it, and a host that changes a model can remove the file.
    2. The signature exists. If the owner trusts a signer, a model without a signature is rejected.
    3. The signature is well-formed, and the model has exactly the signed paths.
    4. The package verifies the signature, and the digests of the files.
    5. A certificate is valid now, and has the subject that the owner trusts.

    The digests are compared again with the bytes that are sealed. See `sealserve.sealing.release.build_release`.

    Args:
        model: The model's settings.
        folder: The SavedModel that will be sealed.
        now: The time of the build.
        warn: Called with a sentence about a signature that is not verified.

    Returns:
        The signer and the signed files, or None if the settings do not name a signer.

    Raises:
        InputError: `model-signature.missing` in step 2.
        InputError: `model-signature.trust` if a file with the trusted key or authority cannot be used.
        VerificationError: `model-signature.format` or `model-signature.unsupported` in step 3.
        VerificationError: `model-signature.mismatch` in steps 3 and 4: files were added, removed or changed.
        VerificationError: `model-signature.invalid` in step 4, and `model-signature.signer` in step 5.
        UnavailableError: `model-signature.trust-root` if the trust root of Sigstore cannot be loaded.
    """
    path = find_signature(model)
    if not model.trusts_a_signer:  # (1)
        if path is not None and warn is not None:
            warn(
                f"{model.name} version {model.version}: the signature {path} is not verified, because sealserve.toml "
                "does not name a signer. Set model.signer_key, model.signer_ca or model.signer_identity."
            )
        return None
    content = _read_signature(model, path)  # (2)
    name = str(path)
    parsed = parse_signature(content, name=name)  # (3)
    what = f"{model.name}, version {model.version},"
    compare_signed(dict.fromkeys(regular_files(folder)), parsed.files, name=what)
    with TemporaryDirectory(prefix="sealserve-") as private:
        signature = Path(private, "signature.json")
        signature.write_bytes(content)
        trusted = _trusted_files(model, Path(private))
        verifier, check = _verifier(model, trusted, name)
        try:
            _run(verifier, folder, signature, name=name, what=what)  # (4)
        except SealserveError:
            # The package also compares the files. If they differ, this error names them in the usual form.
            compare_signed(_digests(folder), parsed.files, name=what)
            raise
    return SignedModel(signer=check(parsed, now), files=parsed.files)  # (5)


def key_digest(key: ec.EllipticCurvePublicKey) -> str:
    """Return the identity of a public key: the SHA-256 of its SubjectPublicKeyInfo in DER, in hexadecimal."""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


_Check = Callable[[SignatureContent, datetime], ModelSigner]


def _read_signature(model: ModelSection, path: Path | None) -> bytes:
    try:
        if path is not None:
            return read_regular(path, limit=MAX_SIGNATURE)
    except InputFileMissingError:
        pass
    except InputFileError as error:
        raise OwnerCode.MODEL_SIGNATURE_INVALID.error(
            f"The signature of the model {model.name} cannot be read: {path}: {error.reason}.",
            hint="Get the file from the signer again.",
        ) from error
    expected = path or f"{SIGNATURE_FILE} in or beside {model.path or 'model.path'}"
    raise OwnerCode.MODEL_SIGNATURE_MISSING.error(
        f"The model {model.name} has no signature, although sealserve.toml names its signer: expected {expected}.",
        hint="Get the signature from the signer, and set model.signature to its path.",
    )


def _trusted_files(model: ModelSection, private: Path) -> Mapping[str, Path]:
    """Copy the files that the settings name, so that the package reads the same bytes as this module."""
    copies = {}
    for setting in ("signer_key", "signer_ca", "signer_trust_file"):
        path: Path | None = getattr(model, setting)
        if path is not None:
            copies[setting] = private / setting
            try:
                copies[setting].write_bytes(read_regular(path))
            except InputFileError as error:
                raise _untrusted(model, f"{path}: {error.reason}") from error
    return copies


def _verifier(model: ModelSection, trusted: Mapping[str, Path], name: str) -> tuple[Any, _Check]:
    """Return the package's verifier for the method in the settings, and the check of the signer that follows it."""
    # Imported only here: most deployments have no signed models, and the package is an extra.
    from model_signing import hashing, verifying  # noqa: PLC0415

    # By default, the package does not compare files of git.
    every_file = hashing.Config().use_file_serialization(hashing_algorithm="sha256")
    every_file.set_ignored_paths(paths=[], ignore_git_paths=False)
    config = verifying.Config().set_hashing_config(every_file)
    if "signer_key" in trusted:
        key = _public_key(model, trusted["signer_key"].read_bytes())
        signer = ModelSigner(method="key", identity=key_digest(key), issuer=None)
        return config.use_elliptic_key_verifier(public_key=trusted["signer_key"]), lambda _content, _now: signer
    if "signer_ca" in trusted:
        authorities = _authorities(model, trusted["signer_ca"].read_bytes())

        def check(content: SignatureContent, now: datetime) -> ModelSigner:
            return _certificate_signer(content, authorities, str(model.signer_identity), now, name)

        return config.use_certificate_verifier(certificate_chain=[trusted["signer_ca"]]), check
    identity, issuer = str(model.signer_identity), str(model.signer_issuer)
    keyless = ModelSigner(method="sigstore", identity=identity, issuer=issuer)
    try:
        config.use_sigstore_verifier(
            identity=identity, oidc_issuer=issuer, trust_config=trusted.get("signer_trust_file")
        )
    except Exception as error:  # the package documents no errors: they come from TUF, requests, and the file's parser
        raise OwnerCode.MODEL_SIGNATURE_TRUST_ROOT.error(
            f"The trust root of Sigstore cannot be loaded: {_reason(error)}",
            hint="Connect this machine to the network, or set model.signer_trust_file to a client trust configuration.",
        ) from error
    return config, lambda _content, _now: keyless


def _run(verifier: Any, folder: Path, signature: Path, *, name: str, what: str) -> None:
    """Run the package's verification. Its messages for people must not be part of this program's output."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            verifier.verify(folder, signature)
    except Exception as error:  # the package documents ValueError, but a malformed bundle raises any exception
        raise OwnerCode.MODEL_SIGNATURE_INVALID.error(
            f"The signature {name} of the model {what} is invalid: {_reason(error)}",
            hint="Check that sealserve.toml names the key, authority or identity of this signer. Otherwise get the "
            "model and its signature again from the signer.",
        ) from error


def _digests(folder: Path) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for path in regular_files(folder):
        with (
            open_regular(folder / path, follow_links=False) as descriptor,
            open(descriptor, "rb", closefd=False) as file,
        ):
            found[path] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _public_key(model: ModelSection, pem: bytes) -> ec.EllipticCurvePublicKey:
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _untrusted(model, f"{model.signer_key} is not a public key in PEM") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, CURVES):
        raise _untrusted(model, f"{model.signer_key} is not a key on P-256, P-384 or P-521")
    return key


def _authorities(model: ModelSection, pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except X509_ERRORS as error:
        raise _untrusted(model, f"{model.signer_ca} does not contain certificates in PEM") from error


def _certificate_signer(
    content: SignatureContent, authorities: list[x509.Certificate], subject: str, now: datetime, name: str
) -> ModelSigner:
    """Check that the certificate chain is valid now, and that the certificate has the trusted subject."""
    leaf, *chain = _chain(content, name)
    store = crypto.X509Store()
    for authority in authorities:
        store.add_cert(crypto.X509.from_cryptography(authority))
    store.set_time(now.astimezone(UTC))
    between = [crypto.X509.from_cryptography(certificate) for certificate in chain]
    try:
        crypto.X509StoreContext(store, crypto.X509.from_cryptography(leaf), between).verify_certificate()
    except crypto.X509StoreContextError as error:
        raise OwnerCode.MODEL_SIGNATURE_SIGNER.error(
            f"The certificate of the signature {name} is not valid at {now:%Y-%m-%d %H:%M:%S} UTC: {error}.",
            hint="Have the model signed again with a valid certificate.",
        ) from error
    if (found := leaf.subject.rfc4514_string()) != subject:
        raise OwnerCode.MODEL_SIGNATURE_SIGNER.error(
            f"The signature {name} is from another signer: expected {subject!r}, got {found!r}.",
            hint="Correct model.signer_identity if you trust this signer.",
        )
    try:
        return ModelSigner(method="certificate", identity=found, issuer=leaf.issuer.rfc4514_string())
    except ValidationError as error:
        raise OwnerCode.MODEL_SIGNATURE_SIGNER.error(
            f"The certificate of the signature {name} cannot be named in a release: its issuer has no name, or a name "
            "with more than 255 characters.",
            hint="Have the model signed with a certificate of another authority.",
        ) from error


def _chain(content: SignatureContent, name: str) -> list[x509.Certificate]:
    """Return the certificates in the bundle, the signer's first. The package has accepted them."""
    return list(_certificates(content.material, name))


def _certificates(material: Mapping[str, Any], name: str) -> Iterator[x509.Certificate]:
    try:
        for certificate in material["x509CertificateChain"]["certificates"]:
            yield x509.load_der_x509_certificate(base64.b64decode(certificate["rawBytes"], validate=True))
    except (LookupError, *X509_ERRORS) as error:
        raise OwnerCode.MODEL_SIGNATURE_INVALID.error(
            f"The signature {name} is invalid: its certificates cannot be read.",
            hint="Get the file from the signer again.",
        ) from error


def _untrusted(model: ModelSection, reason: str) -> SealserveError:
    return OwnerCode.MODEL_SIGNATURE_TRUST.error(
        f"The signer of the model {model.name} cannot be verified: {reason}.",
        hint="Correct model.signer_key, model.signer_ca or model.signer_trust_file in sealserve.toml.",
    )


def _reason(error: Exception) -> str:
    """Return one line about an exception of another package."""
    return (str(error).strip().partition("\n")[0][:300] or type(error).__name__).rstrip(".") + "."
