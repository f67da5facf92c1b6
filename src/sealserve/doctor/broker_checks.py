"""Checks of the owner's machine before it runs a broker for genuine enclaves: the broker's name, and the collateral."""

import socket
from collections.abc import Iterator
from datetime import datetime

from sealserve.addresses import is_ip_address
from sealserve.broker import admin
from sealserve.deployment import Deployment
from sealserve.doctor.finding import Finding, Machine, Verdict
from sealserve.errors import SealserveError
from sealserve.owner import collateral
from sealserve.owner.attestation import open_client, trust_anchors
from sealserve.owner.owner import Owner
from sealserve.sgx.collateral_requests import Document, Kind
from sealserve.sgx.pcs_responses import Signed
from sealserve.terms import PlatformKind
from sealserve.workspace import Workspace


def broker(workspace: Workspace, deployment: Deployment, platform: PlatformKind, *, now: datetime) -> Iterator[Finding]:
    """Yield the findings about the broker.

    Args:
        workspace: The owner's workspace. Nothing in it changes.
        deployment: The settings of the broker. Two small documents are downloaded from its PCS or PCCS.
        platform: The kind of platform that the collateral is for.
        now: The current time.
    """
    yield _address(deployment.broker.address)
    yield _service(workspace, deployment, platform)
    yield from _stored(workspace, platform, now)


def _address(address: str) -> Finding:
    """Check the name at which enclaves reach the broker.

    Mbed TLS before 3.5 compares host names only, and rejects a certificate for an IP address with error -9984.
    """
    verdict, remedy = Verdict.OK, ""
    if is_ip_address(address):
        verdict = Verdict.NOTE
        found = f"broker.address is the IP address {address}; enclaves with Gramine before 1.6 reject IP addresses"
        remedy = "to support such enclaves, set broker.address to a host name"
    else:
        try:
            resolved = addresses_of(address)
            found = f"{address} is {', '.join(resolved)}"
        except OSError as error:
            verdict = Verdict.NOTE
            found = f"this machine cannot resolve broker.address {address}: {error.strerror or error}"
            remedy = "add the name to the DNS that the hosts use"
    return Finding(machine=Machine.OWNER, name="broker address", verdict=verdict, found=found, remedy=remedy)


def addresses_of(name: str) -> list[str]:
    """Return the IP addresses of a host name.

    Raises:
        OSError: The name cannot be resolved.
    """
    return sorted({str(found[4][0]) for found in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)})


def _service(workspace: Workspace, deployment: Deployment, platform: PlatformKind) -> Finding:
    """Check that the PCS or PCCS serves collateral that the vendor signed. Nothing is stored."""
    anchor = trust_anchors(workspace)[platform]
    try:
        with open_client(workspace, deployment, platform, anchor, store=False) as client:
            client.refresh(Document(Kind.ROOT_CRL))
            identity = client.refresh(Document(Kind.QE_IDENTITY, update=deployment.broker.collateral_update))
    except SealserveError as error:
        return Finding(machine=Machine.OWNER, name="collateral service", verdict=Verdict.MISSING, found=error.message,
                       remedy=error.hint or "set broker.collateral_url to a PCS or PCCS")  # fmt: skip
    number = f", TCB evaluation data number {identity.evaluation_number}" if isinstance(identity, Signed) else ""
    return Finding(
        machine=Machine.OWNER,
        name="collateral service",
        verdict=Verdict.OK,
        found=f"serves collateral that is valid until {identity.next_update:%Y-%m-%d}{number}",
    )


def _stored(workspace: Workspace, platform: PlatformKind, now: datetime) -> Iterator[Finding]:
    """Yield a note for each stored document that the broker would not accept."""
    rows = [row for row in collateral.stored(workspace) if row.platform is platform]
    if not rows or not workspace.owner.database.exists():
        return
    try:
        with Owner.open(workspace).database() as database:
            floors = admin.status(database).evaluation_floor
    except SealserveError as error:
        yield Finding(machine=Machine.OWNER, name="broker database", verdict=Verdict.MISSING, found=error.message,
                      remedy=error.hint or "")  # fmt: skip
        return
    for row in rows:
        title = " ".join(filter(None, (row.document, row.subject)))
        if now > row.valid_until:
            found = f"the stored {title} expired on {row.valid_until:%Y-%m-%d}"
        elif row.evaluation_number is not None and row.evaluation_number < (floor := row.floor(floors) or 0):
            found = f"the stored {title} has the evaluation number {row.evaluation_number}, below the floor {floor}"
        else:
            continue
        yield Finding(machine=Machine.OWNER, name="collateral", verdict=Verdict.NOTE, found=found,
                      remedy="run `sealserve broker collateral --refresh`")  # fmt: skip
