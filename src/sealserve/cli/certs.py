"""``sealserve certs``: the certificate authorities, and the certificates of the broker and the users."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated

import typer

from sealserve.cli import console
from sealserve.cli.context import Context
from sealserve.cli.deferred_imports import deferred
from sealserve.cli.output import Table
from sealserve.cli.verbs import Verbs
from sealserve.terms import TlsMode

with deferred:
    from sealserve.owner import certificates
    from sealserve.owner.certificates import NamedCertificate

app = Verbs("Create, show and renew certificates.")


@app.command("two-way")
def two_way(context: Context) -> None:
    """Create three certificate authorities, the broker's certificate and a client certificate for users.

    With two-way TLS, only users with a client certificate can call the service. Existing authorities are kept.
    """
    _create(context, TlsMode.TWO_WAY)


@app.command("one-way")
def one_way(context: Context) -> None:
    """Create three certificate authorities and the broker's certificate, without a client certificate.

    With one-way TLS, everyone who can reach the service can use it. Existing authorities are kept.
    """
    _create(context, TlsMode.ONE_WAY)


@app.command()
def renew(context: Context) -> None:
    """Issue new certificates for the broker and the default user.

    The service's certificate is not included: each new release contains a new one.
    """
    _show(context, certificates.renew_certificates(context.workspace, context.deployment, now=datetime.now(UTC)))


@app.command("renew-service-ca")
def renew_service_ca(context: Context) -> None:
    """Issue the certificate of the service's authority again, with the same key, for another ten years.

    Send the new user/service-ca.pem to the users. With it, they also accept the certificates that the authority signed
    before. Authorities of versions without attested serving need this once.
    """
    now = datetime.now(UTC)
    _show(context, certificates.renew_service_authority(context.workspace, context.deployment, now=now))
    context.say(f"Next: send {context.workspace.user.service_ca} to the users, then run `sealserve up`.")


@app.command("rotate-issuing")
def rotate_issuing(
    context: Context,
    compromised: Annotated[
        bool,
        typer.Option("--compromised", help="delete the former private key now; by default, the next rotation does"),
    ] = False,
) -> None:
    """Replace the authority with which the broker issues certificates to enclaves (attested serving).

    A running broker uses the new authority immediately. Certificates that the former authority signed stay valid.
    """
    now = datetime.now(UTC)
    _show(context, certificates.rotate_issuing(context.workspace, context.deployment, now=now, compromised=compromised))


@app.command()
def show(context: Context) -> None:
    """Show the workspace's certificates, and when they expire."""
    _show(context, certificates.show_certificates(context.workspace))


def _create(context: Context, mode: TlsMode) -> None:
    certificates.check_mode(context.deployment, mode)
    for kind in certificates.lost_authorities(context.workspace):
        console.warn(
            f"the {kind} authority is missing and is replaced by a new authority. Certificates that the former "
            "authority signed are no longer trusted. Build and start a new release, and give the folder user/ to the "
            "users."
        )
    _show(context, certificates.create_certificates(context.workspace, context.deployment, now=datetime.now(UTC)))


def _show(context: Context, found: Iterable[NamedCertificate]) -> None:
    now = datetime.now(UTC)
    values, rows = [], []
    for row in found:
        info = row.info
        names = [*info.names, *map(str, info.addresses), *info.permitted]
        values.append({
            "role": row.role, "file": str(row.path), "subject": info.subject, "names": names,
            "not_after": info.not_after.isoformat(), "fingerprint": info.fingerprint,
        })  # fmt: skip
        rows.append((row.role, ", ".join(names), f"{info.not_after:%Y-%m-%d}", (info.not_after - now).days))
    empty = "The workspace has no certificates yet. Create them: `sealserve certs two-way`."
    context.show(values, Table(("FOR", "NAMES", "EXPIRES (UTC)", "DAYS LEFT"), rows, empty=empty))
