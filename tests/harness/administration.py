"""A running administration API with one administrator of each role, on a workspace with a registered release."""

import contextlib
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from tests.harness.workspaces import Site

from sealserve.attestation.policy import AppraisalPolicy
from sealserve.attestation.presets import STRICT
from sealserve.attestation.secret_provisioning import SecretForm
from sealserve.broker import admin, audit
from sealserve.broker.admin import KnownRelease
from sealserve.broker.administration.administrator_file import AdministratorFile
from sealserve.broker.administration.client import RemoteAdministration
from sealserve.broker.administration.server import AdministrationServer, Limits
from sealserve.broker.audit import AuditRow
from sealserve.broker.database import Database
from sealserve.broker.keystore import open_keystore
from sealserve.broker.releases import Release, ReleaseId
from sealserve.broker.server_identity import ServerIdentity
from sealserve.memory_file import memory_file
from sealserve.owner import administrators
from sealserve.owner.administration import LocalAdministration
from sealserve.owner.certificates import broker_certificate
from sealserve.owner.owner import Owner
from sealserve.owner.token_keys import create_token_key
from sealserve.pki.certificate import CertifiedKey
from sealserve.sgx.reference_values import ReferenceValues
from sealserve.sgx.report import MrEnclave, MrSigner
from sealserve.terms import AdministratorRole, PlatformKind

EXPIRED = "expired.json"
"""The administrator file of an operator whose certificate has expired."""


@dataclass(frozen=True, slots=True)
class RemoteSite:
    """The API, and the administrator files by role.

    Attributes:
        site: The workspace of the broker's owner.
        server: The running server.
        database: The broker's database.
        files: The administrator files. The administrators are called ``a-viewer`` and so on.
        registered: A registered release.
    """

    site: Site
    server: AdministrationServer
    database: Database
    files: Mapping[AdministratorRole, Path]
    registered: KnownRelease

    @property
    def url(self) -> str:
        """The address of the API."""
        return f"https://127.0.0.1:{self.server.address[1]}"

    def rows(self) -> list[AuditRow]:
        """Return the audit log, after verifying its chain."""
        with self.database.read() as connection:
            audit.verify_chain(connection)
            return list(audit.rows(connection))

    def credentials(self, role: AdministratorRole) -> AdministratorFile:
        """Return the credentials of the administrator with a role."""
        return AdministratorFile.read(self.files[role])

    def client(self, role: AdministratorRole) -> RemoteAdministration:
        """Return sealserve's client."""
        return RemoteAdministration(self.url, self.credentials(role), now=datetime.now(UTC))

    def context(self, identity: CertifiedKey | None) -> ssl.SSLContext:
        """Return the TLS context of another client, which trusts the broker."""
        context = ssl.create_default_context(
            cadata=self.credentials(AdministratorRole.VIEWER).broker_ca.decode("ascii")
        )
        if identity is not None:
            with memory_file(identity.chain_pem) as chain, memory_file(identity.key_pem.reveal()) as key:
                context.load_cert_chain(chain, key)
        return context

    def http(self, role: AdministratorRole) -> httpx.Client:
        """Return a general HTTP client with the certificate of the administrator with a role."""
        identity = self.credentials(role).identity
        return httpx.Client(base_url=self.url, verify=self.context(identity), trust_env=False)


def register(
    database: Database,
    site: Site,
    *,
    digit: str = "a",
    name: str = "resnet50",
    secret_form: SecretForm = SecretForm.RAW,
) -> KnownRelease:
    """Register a release without files, and return it."""
    keystore = open_keystore(database, site.workspace.owner.master_key)
    made = keystore.create(database, now=site.now)
    release = Release(
        release_id=ReleaseId(digit * 64),
        name=name,
        platform=PlatformKind.SIMULATED,
        key_id=made.key_id,
        policy=AppraisalPolicy(tcb=STRICT, enrolled_platforms_only=False),
        created=site.now,
        secret_form=secret_form,
    )
    values = ReferenceValues(
        mr_enclave=MrEnclave(bytes.fromhex(digit * 64)), mr_signer=MrSigner(b"\2" * 32), isv_prod_id=1, isv_svn=2
    )
    return admin.allow(database, release, {"replica-0": values}, now=site.now)


@contextlib.contextmanager
def remote_site(site: Site, **limits: Any) -> Iterator[RemoteSite]:
    """Start the API on a free port. ``limits`` replace defaults of `Limits`."""
    if not site.workspace.owner.broker_tls.exists():
        site.certify()
    Owner.create(site.workspace)
    files = {}
    long_ago = site.now - timedelta(days=40)  # the authority is older than the expired certificate
    administrators.issue(
        site.workspace, site.deployment, "expired", AdministratorRole.OPERATOR, site.directory / EXPIRED,
        now=long_ago, days=10,
    )  # fmt: skip
    for role in AdministratorRole:
        files[role] = site.directory / f"{role}.json"
        administrators.issue(site.workspace, site.deployment, f"a-{role}", role, files[role], now=site.now, days=30)
    create_token_key(site.workspace)
    with Owner.open(site.workspace).database(create=True) as database:
        registered = register(database, site)
        identity = ServerIdentity(partial(broker_certificate, site.workspace))
        server = AdministrationServer(
            lambda actor: LocalAdministration(site.workspace, lambda: site.deployment, actor=actor, database=database),
            identity=lambda: identity.value.identity,
            trust=site.workspace.owner.administrators,
            listen="127.0.0.1",
            port=0,
            limits=Limits(**limits),
        )
        with server:
            yield RemoteSite(site, server, database, files, registered)
