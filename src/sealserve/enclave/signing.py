"""Building an enclave: its manifest with all digests, its measurement, and its signature."""

import hashlib
import logging
from collections.abc import Collection
from datetime import date
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from sealserve.atomic_file import write_file
from sealserve.enclave.codes import EnclaveCode
from sealserve.enclave.environment import BROKER_CA_FILE
from sealserve.enclave.findings import Danger
from sealserve.enclave.gramine_tools import GramineTools, find_tools
from sealserve.enclave.index import (
    BuiltEnclave,
    describe,
    other_enclaves,
    release_id_of,
    verify_enclave_index,
    write_index,
)
from sealserve.enclave.manifest import EnclaveManifest
from sealserve.enclave.manifest_reader import parse_manifest, refuse_template
from sealserve.enclave.measurement import (
    load_enclave,
    manifest_path,
    measure_simulated,
    sigstruct_path,
)
from sealserve.enclave.server_flags import TLS_FOLDER
from sealserve.enclave.spec import EnclaveSpec, make_manifest
from sealserve.sealing.release_index import ENCLAVE_FOLDER
from sealserve.sgx.report import AttributeFlags, Attributes
from sealserve.sgx.sigstruct import ATTRIBUTE_MASK, PRODUCTION_ATTRIBUTES, Sigstruct, xfrm_of
from sealserve.x509_errors import X509_ERRORS

__all__ = ["BuiltEnclave", "build_enclave", "measure_simulated", "resign", "verify_enclave_index"]

LOGGER: Final = logging.getLogger(__name__)


def build_enclave(
    release: Path,
    spec: EnclaveSpec,
    *,
    broker_ca: bytes,
    signing_key: RSAPrivateKey,
    index_signer: Ed25519PrivateKey,
    signed_on: date,
    gramine: GramineTools | None = None,
    manifest: bytes | None = None,
    dangerous: Collection[Danger] = (),
    one_way_tls: bool = False,
) -> BuiltEnclave:
    """Build the enclave ``spec`` into the release's ``enclave/`` folder, and sign the folder's index again.

    The same specification and the same trusted files give the same MRENCLAVE. The index is written last. An interrupted
    build therefore does not verify, and building again repairs it.

    Args:
        release: The release's folder.
        spec: The specification of the enclave.
        broker_ca: The certificate (PEM) of the CA that issues the broker's certificate. The enclave trusts no other CA.
        signing_key: The key that signs the SIGSTRUCT.
        index_signer: The owner's key for signing indexes.
        signed_on: The date in the SIGSTRUCT. It is not measured.
        gramine: The tools that build an enclave for SGX; by default the tools on the search path.
        manifest: A custom manifest, which replaces the specification's. By default the specification's is used.
        dangerous: The classes of insecure settings that are allowed in the manifest.
        one_way_tls: Whether the release's TLS settings accept clients without a certificate.

    Raises:
        VerificationError: `manifest.template`: ``manifest`` is a template.
        VerificationError: `manifest.insecure`: The manifest has insecure settings.
        InputError: `enclave.other-manifest`: ``manifest`` is not for this release, platform or broker CA.
        UnavailableError: `gramine.missing`: The enclave is for SGX, and Gramine is not installed on this machine.
        VerificationError: `gramine.other-version`: This machine's Gramine differs from Gramine in the inventory.
        InputError: `enclave.other-release`: ``spec`` names a different release.
        InputError: `enclave.broker-ca`: ``broker_ca`` is not a certificate, or the release's other enclaves trust a
            different CA.
        SealserveError: The errors of `other_enclaves` for an existing index.
    """
    release_id = release_id_of(release)
    if spec.release_id != release_id:
        raise EnclaveCode.OTHER_RELEASE.error(
            f"The enclave {spec.name!r} is specified for a different release: expected {release_id} ({release}), got "
            f"{spec.release_id}.",
            hint="Specify the enclave for this release.",
        )
    tools = None if spec.simulated else gramine or find_tools()
    if tools is not None and spec.gramine is not None:
        tools.check_version(spec.gramine)
    others = other_enclaves(release, spec.name, index_signer.public_key())
    (release / ENCLAVE_FOLDER).mkdir(exist_ok=True)
    _place_broker_ca(release, broker_ca, fixed=bool(others))
    specified = make_manifest(spec, broker_ca_sha256=hashlib.sha256(broker_ca).hexdigest())
    text = manifest or specified.to_bytes()
    if manifest is not None:
        refuse_template(manifest, name=f"{spec.name}.manifest")
    parsed = parse_manifest(text, name=f"{spec.name}.manifest", dangerous=dangerous, one_way_tls=one_way_tls)
    _check_own_manifest(parsed, specified)
    if tools is None:
        write_file(manifest_path(release, spec.name), text)
        _sign(release, spec.name, text, signing_key=signing_key, signed_on=signed_on, dangerous=dangerous)
    else:
        built, sigstruct = tools.build(
            text, name=spec.name, signing_key=signing_key, signed_on=signed_on, dangerous=dangerous
        )
        write_file(manifest_path(release, spec.name), built)
        write_file(sigstruct_path(release, spec.name), sigstruct.to_bytes())
    enclave = describe(release, load_enclave(release, spec.name, dangerous=dangerous))
    write_index(release, {**others, spec.name: enclave.mr_enclave}, {BROKER_CA_FILE}, index_signer)
    LOGGER.info("built enclave name=%s mr_enclave=%s", spec.name, enclave.mr_enclave.hex())
    return enclave


def _check_own_manifest(own: EnclaveManifest, specified: EnclaveManifest) -> None:
    """Check that a custom manifest is for this release, platform and broker."""
    for variable in ("SEALSERVE_RELEASE_ID", "SEALSERVE_PLATFORM", "SECRET_PROVISION_SERVERS"):
        here, there = own.loader.env[variable], specified.loader.env[variable]
        if here != there:
            raise EnclaveCode.OTHER_MANIFEST.error(
                f"The manifest is for a different deployment: loader.env.{variable} should be {there!r}, got {here!r}.",
                hint="Start from the manifest that `sealserve enclave manifest` prints for this release.",
            )
    tls = {mount.uri for mount in specified.fs.mounts if mount.type == "encrypted" and mount.source == TLS_FOLDER}
    if lacking := tls - {mount.uri for mount in own.fs.mounts if mount.type == "encrypted"}:
        # Without these settings, an attested server would accept clients without a certificate.
        raise EnclaveCode.OTHER_MANIFEST.error(
            f"The manifest lacks the release's TLS settings: fs.mounts has no encrypted mount of {lacking.pop()!r}.",
            hint="Start from the manifest that `sealserve enclave manifest` prints for this release.",
        )
    if specified.sgx.trusted_files[0] not in own.sgx.trusted_files:
        raise EnclaveCode.OTHER_MANIFEST.error(
            "The manifest does not trust this workspace's broker CA: sgx.trusted_files lists no CA, or a different CA.",
            hint="Start from the manifest that `sealserve enclave manifest` prints for this release.",
        )


def resign(
    release: Path,
    name: str,
    *,
    signing_key: RSAPrivateKey,
    signed_on: date,
    dangerous_debug: bool = False,
    dangerous: Collection[Danger] = (),
) -> Sigstruct:
    """Sign an enclave's manifest again, regardless of its current SIGSTRUCT, and replace the SIGSTRUCT.

    The folder's index is not updated, and therefore no longer verifies.

    Args:
        release: The release's folder.
        name: The enclave's name.
        signing_key: The key that signs. A different key gives a different MRSIGNER and the same MRENCLAVE.
        signed_on: The date in the SIGSTRUCT.
        dangerous_debug: Whether to set DEBUG. The host can then read the enclave's memory, and brokers reject the
            enclave.
        dangerous: The classes of insecure settings that are allowed in the manifest.

    Raises:
        SealserveError: The errors of `parse_manifest`.
    """
    return _sign(
        release,
        name,
        manifest_path(release, name).read_bytes(),
        signing_key=signing_key,
        signed_on=signed_on,
        dangerous_debug=dangerous_debug,
        dangerous=dangerous,
    )


def _sign(
    release: Path,
    name: str,
    manifest: bytes,
    *,
    signing_key: RSAPrivateKey,
    signed_on: date,
    dangerous_debug: bool = False,
    dangerous: Collection[Danger] = (),
) -> Sigstruct:
    attributes = PRODUCTION_ATTRIBUTES
    if dangerous_debug:
        LOGGER.warning("dangerous: enclave %s is signed with DEBUG, so the host can read its memory", name)
        attributes = Attributes(flags=attributes.flags | AttributeFlags.DEBUG, xfrm=attributes.xfrm)
    settings = parse_manifest(manifest, name=name, dangerous=dangerous).sgx
    required = xfrm_of(settings.required_cpu_features)
    sigstruct = Sigstruct.sign(
        mr_enclave=measure_simulated(manifest, dangerous=dangerous),
        key=signing_key,
        signed_on=signed_on,
        isv_prod_id=settings.isvprodid,
        isv_svn=settings.isvsvn,
        attributes=Attributes(flags=attributes.flags, xfrm=attributes.xfrm | required),
        attribute_mask=Attributes(flags=ATTRIBUTE_MASK.flags, xfrm=ATTRIBUTE_MASK.xfrm | required),
    )
    write_file(sigstruct_path(release, name), sigstruct.to_bytes())
    return sigstruct


def _place_broker_ca(release: Path, certificate: bytes, *, fixed: bool) -> None:
    path = release / ENCLAVE_FOLDER / BROKER_CA_FILE
    try:
        x509.load_pem_x509_certificates(certificate)
    except X509_ERRORS as error:
        raise EnclaveCode.BROKER_CA.error(
            "The broker's CA certificate cannot be read: expected a certificate in PEM form.",
            hint="Give the CA certificate of the broker's workspace.",
        ) from error
    if not fixed:
        write_file(path, certificate)
    elif path.read_bytes() != certificate:
        raise EnclaveCode.BROKER_CA.error(
            f"The broker's CA certificate differs from {path}, which the release's other enclaves trust and measure.",
            hint="Give the same broker CA, or build a new release.",
        )
