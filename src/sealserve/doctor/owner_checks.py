"""Checks of the owner's machine: a private workspace, and a deployment that is fit for production."""

import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from sealserve.addresses import is_ip_address
from sealserve.deployment import Deployment
from sealserve.doctor import broker_checks, database_checks, machine_checks, token_check
from sealserve.doctor.finding import Finding, Machine, Verdict
from sealserve.errors import SealserveError
from sealserve.owner import policies, releases
from sealserve.owner.expiry import certificate_ends
from sealserve.pki import expiry
from sealserve.sgx.policy_rules import rules_of
from sealserve.terms import PlatformKind, RuntimeKind, TlsMode
from sealserve.workspace import Workspace


def owner(platform: PlatformKind, workspace: Workspace | None, deployment: Deployment | None) -> Iterator[Finding]:
    """Yield the findings about the owner's machine."""
    yield machine_checks.python(Machine.OWNER)
    yield machine_checks.tensorflow(Machine.OWNER, "to convert frozen graphs")
    yield machine_checks.disk(Machine.OWNER, workspace)
    if workspace is None:
        yield Finding(machine=Machine.OWNER, name="workspace", verdict=Verdict.NOTE,
                      found="this folder has no sealserve.toml",
                      remedy="create it with `sealserve init`")  # fmt: skip
        return
    exposed = [
        path.name
        for path in (
            workspace.owner.root,
            workspace.owner.master_key,
            workspace.owner.index_signing_key,
            workspace.owner.audit_signing_key,
            workspace.owner.row_key,
            workspace.owner.token_signing_key,
        )
        if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077
    ]
    yield Finding(
        machine=Machine.OWNER,
        name="workspace",
        verdict=Verdict.MISSING if exposed else Verdict.OK,
        found=f"other users can read {', '.join(exposed)}" if exposed else f"{workspace.root}, private",
        remedy=f"run `chmod -R go-rwx {workspace.owner.root}`" if exposed else "",
    )
    given = None if deployment is None else deployment.service.tls_certificate_file
    yield from _certificates(workspace, given, datetime.now(UTC))
    if deployment is not None:
        yield from token_check.token(deployment.keystore)
    if deployment is not None and deployment.database.url is not None:
        yield database_checks.server(workspace, deployment.database)
    if deployment is not None and platform is PlatformKind.SGX:
        yield from broker_checks.broker(workspace, deployment, platform, now=datetime.now(UTC))


def _certificates(workspace: Workspace, given: Path | None, now: datetime) -> Iterator[Finding]:
    """Yield a note for each certificate that expires soon, or one finding if no certificate does."""
    newest = releases.newest(workspace.owner.releases) if releases.any_in(workspace.owner.releases) else None
    ends = expiry.endings(certificate_ends(workspace, newest, given=given))
    for end in ends:
        if end.is_near(now):
            verdict = Verdict.MISSING if end.is_over(now) else Verdict.NOTE
            yield Finding(machine=Machine.OWNER, name=f"certificate {end.name}", verdict=verdict,
                          found=end.sentence(now), remedy=expiry.remedy(end.name))  # fmt: skip
    if ends and not ends[0].is_near(now):
        yield Finding(
            machine=Machine.OWNER,
            name="certificates",
            verdict=Verdict.OK,
            found=f"the certificate of the {ends[0].name} expires first, on {ends[0].time:%Y-%m-%d}",
        )


def production(runtime: RuntimeKind, deployment: Deployment | None) -> Iterator[Finding]:
    """Yield findings about settings that are not acceptable in production."""
    simulated = runtime.platform is PlatformKind.SIMULATED
    yield Finding(
        machine=Machine.OWNER,
        name="platform",
        verdict=Verdict.MISSING if simulated else Verdict.OK,
        found=f"{runtime}: the host can read the model and all data" if simulated else "sgx",
        remedy='set platform = "sgx" in sealserve.toml' if simulated else "",
    )
    if deployment is not None and (allowed := {name for m in deployment.models for name in m.dangerous_operations}):
        yield Finding(machine=Machine.OWNER, name="operations", verdict=Verdict.MISSING,
                      found=f"allowed: {', '.join(sorted(allowed))}; what they print leaves the enclave",
                      remedy="export the models without these operations")  # fmt: skip
    if deployment is not None and deployment.server.dangerous_shared_batches:
        yield Finding(machine=Machine.OWNER, name="batches", verdict=Verdict.MISSING,
                      found="shared: a model can answer one user with the input of another user",
                      remedy="remove server.dangerous_shared_batches from sealserve.toml")  # fmt: skip
    if deployment is not None and deployment.server.traces.dangerous_plaintext:
        yield Finding(machine=Machine.OWNER, name="traces", verdict=Verdict.MISSING,
                      found="plaintext: the host and the network can read and change them",
                      remedy="use an https:// address in server.traces.endpoint")  # fmt: skip
    if deployment is not None and not deployment.server.attested:
        yield Finding(machine=Machine.OWNER, name="TLS key", verdict=Verdict.NOTE,
                      found="the owner creates it: the owner can read all requests, and users have no proof",
                      remedy='use server.kind = "embedded" without server.dangerous_owner_tls_key')  # fmt: skip
    if deployment is not None and deployment.tcb.policy_file is not None:
        yield from _policy_file(deployment)
    if deployment is not None and deployment.target.kind == "kubernetes":
        yield _network_policy(deployment)
    if deployment is not None and deployment.service.tls is TlsMode.ONE_WAY:
        yield Finding(machine=Machine.OWNER, name="TLS", verdict=Verdict.NOTE,
                      found="one-way: every client that reaches the service may use it",
                      remedy='set service.tls = "two-way"')  # fmt: skip


def _policy_file(deployment: Deployment) -> Iterator[Finding]:
    """Check that the policy file is valid, and accepts only registered enclaves."""
    found = remedy = ""
    try:
        policy = policies.of_deployment(deployment).for_platform(deployment.platform)
        if rules_of(policy.evidence_rules).dangerous_signer is not None:
            found = "sgx.dangerous_signer accepts each enclave of a signer, whatever it contains"
            remedy = "remove sgx.dangerous_signer from the policy file, and register the release again"
    except SealserveError as error:
        found, remedy = error.message, error.hint or ""
    verdict = Verdict.MISSING if found else Verdict.OK
    yield Finding(machine=Machine.OWNER, name="policy", verdict=verdict, found=found or "valid", remedy=remedy)


def _network_policy(deployment: Deployment) -> Finding:
    """Check the NetworkPolicies. They match IP addresses only, so they need the addresses of all peers."""
    settings = deployment.kubernetes
    store = urlsplit(settings.store.source or "")
    collector = deployment.server.traces.collector
    peers = "the broker, the store and DNS" if collector is None else "the broker, the store, the collector and DNS"
    found, remedy, verdict = f"replicas can reach only {peers}", "", Verdict.OK
    if collector is not None and not is_ip_address(collector.host):
        verdict = Verdict.NOTE
        found = f"replicas can reach port {collector.port} at every address, not only the trace collector's"
        remedy = "use an IP address in server.traces.endpoint"
    if store.hostname and not settings.store.addresses and not is_ip_address(store.hostname):
        verdict = Verdict.NOTE
        found = f"replicas can reach the port of {store.hostname} at every address"
        remedy = "set kubernetes.store.addresses to the networks of the store"
    if not settings.broker.ip and not is_ip_address(deployment.broker.address):
        verdict = Verdict.MISSING
        found = f"replicas can reach port {deployment.broker.port} at every address, not only the broker's"
        remedy = "set kubernetes.broker.ip to the IP address of the broker"
    return Finding(machine=Machine.OWNER, name="network policy", verdict=verdict, found=found, remedy=remedy)
