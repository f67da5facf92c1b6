"""``sealserve release``: build, ship, verify, compare and list releases."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from sealserve.attestation.secret_provisioning import SecretForm
from sealserve.cli import console, options
from sealserve.cli.context import Context, Place
from sealserve.cli.deferred_imports import deferred
from sealserve.cli.output import Table
from sealserve.cli.release_upkeep import diff, prune
from sealserve.cli.verbs import Verbs
from sealserve.terms import PlatformKind

with deferred:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from sealserve.cli.changing import owning
    from sealserve.cli.conversion import convert_again
    from sealserve.owner import models, release_store, releases
    from sealserve.owner.keys import read_owner_key
    from sealserve.owner.owner import Owner
    from sealserve.owner.releases import FaultyRelease, ListedRelease, VerifiedBundle
    from sealserve.sealing.release_index import ReleaseIndex
    from sealserve.workspace import Workspace

app = Verbs("Build, ship, verify, compare and list releases.")

OwnerKey = Annotated[
    Path | None,
    typer.Option("--owner-key", help="Public key of the owner (PEM)", show_default=".sealserve/host/owner.pub"),
]
OnHost = Annotated[bool, typer.Option("--host", help="Use the host's releases instead of the owner's")]


@app.command()
def build(
    context: Context,
    new_signing_key: Annotated[
        bool,
        typer.Option(
            "--new-signing-key", help="Create a new key that signs releases, if the previous key file is missing"
        ),
    ] = False,
    secret_form: Annotated[
        SecretForm | None,
        typer.Option("--secret-form", help=options.FORM_OF_KEY_HELP, show_default="as chosen at `broker allow`"),
    ] = None,
    sign_model: Annotated[
        Path | None,
        typer.Option(
            "--sign-model",
            metavar="KEY",
            help="Private key (PEM) to sign each model with, for OpenSSF Model Signing",
            show_default="the models are not signed",
        ),
    ] = None,
    no_wait: options.NoWait = False,
) -> None:
    """Build a release: seal the models and a new TLS certificate under a new key.

    A model whose source changed since its conversion is converted again first. An older release is never replaced. If
    sealserve.toml names the signer of a model, the model's signature is verified.
    """
    with owning(context.workspace, "release build", no_wait=no_wait):
        _build(context, replace_lost_key=new_signing_key, secret_form=secret_form, sign_model=sign_model)


def _build(
    context: Context, *, replace_lost_key: bool, secret_form: SecretForm | None, sign_model: Path | None
) -> None:
    workspace, described = context.workspace, context.deployment
    convert_again(workspace, described, say=context.say)
    total = sum(console.size_of(models.servable_folder(workspace, model)) for model in described.models)
    with console.bytes_progress("Sealing", total) as progress:
        built = releases.build(
            workspace,
            described,
            now=datetime.now(UTC),
            replace_lost_key=replace_lost_key,
            secret_form=secret_form,
            sign_model=sign_model,
            progress=progress,
            warn=console.warn,
        )
    signatures = [releases.signature_of(workspace, model) for model in described.models] if sign_model else []
    context.show(
        {
            "id": built.id,
            "folder": str(built.folder),
            "key_id": built.index.key_id,
            **({"signatures": [str(path) for path in signatures]} if signatures else {}),
        },
        {
            "release": built.folder.name,
            "id": built.id,
            "key id": built.index.key_id,
            "folder": built.folder,
            **({"signers": signers} if (signers := _signers(built.index)) else {}),
            **({"signatures": "\n".join(map(str, signatures))} if signatures else {}),
        },
    )
    here = context.deployment.platform is PlatformKind.SIMULATED
    elsewhere = "`sealserve enclave build`"
    context.say(
        f"Next: `sealserve up`, or {elsewhere} if the host is another machine." if here else f"Next: {elsewhere}."
    )


@app.command()
def verify(
    context: Context,
    name: options.ReleaseName = None,
    owner_key: OwnerKey = None,
    host: OnHost = False,
) -> None:
    """Verify a release: the owner's signature, the size and SHA-256 of each file, and the enclaves.

    The command does not need any secret, so a host can run it.
    """
    if owner_key is not None and name is not None and Path(name).is_dir():
        verified = releases.verify(Path(name), read_owner_key(owner_key))
    else:
        workspace = context.workspace
        folder = releases.find((workspace.host if host else workspace.owner).releases, name)
        verified = releases.verify(folder, _key(owner_key, workspace))
    count = len(verified.index.files)
    context.show(
        {"id": verified.id, "folder": str(verified.folder), "files": count, "enclaves": verified.enclaves},
        f"{verified.folder.name}: the owner's signature and all {count} files are valid; {_enclaves(verified)}.",
    )


@app.command()
def show(context: Context, name: options.ReleaseName = None, host: OnHost = False) -> None:
    """Verify a release, and show its public index: models, files, sizes and digests."""
    workspace = context.workspace
    folder = releases.find((workspace.host if host else workspace.owner).releases, name)
    verified = releases.verify(folder, Owner.open(workspace).public_key())
    index = verified.index
    fields = {
        "release": folder.name,
        "id": verified.id,
        "created": index.created,
        "servables": "\n".join(f"{item.name}: {', '.join(map(str, item.versions))}" for item in index.servables),
        "platform": "simulated" if index.simulated else "sgx",
        "key id": index.key_id,
        **({} if index.secret_form is None else {"secret form": index.secret_form}),
        **({"signers": signers} if (signers := _signers(index)) else {}),
        "format": index.file_format,
    }  # fmt: skip
    files = Table(("SIZE", "SHA-256", "FILE"), [(file.size, file.sha256, file.path) for file in index.files])
    context.show({"id": verified.id, **index.model_dump(mode="json")}, fields, files)


@app.command("list")
def list_(context: Context, host: OnHost = False) -> None:
    """List the releases, oldest first.

    A release that does not verify is listed with its error code. The exit status is then not 0.
    """
    workspace = context.workspace
    rows = list(releases.listed(workspace, (workspace.host if host else workspace.owner).releases))
    faults = [row for row in rows if isinstance(row, FaultyRelease)]
    table = Table(
        ("RELEASE", "CREATED (UTC)", "SERVABLES", "PLATFORM", "SIZE"),
        [_listed_cells(row) for row in rows],
        empty="The workspace does not contain releases yet. Build one: `sealserve release build`.",
    )
    context.show([_listed_fields(row) for row in rows], table)
    if not context.as_json:
        for row in faults:
            console.print_error(row.fault)
    if faults:
        raise typer.Exit(faults[0].fault.exit_status)


def _listed_fields(row: ListedRelease | FaultyRelease) -> dict[str, object]:
    if isinstance(row, FaultyRelease):
        return {"folder": str(row.folder), "error": console.describe_error(row.fault)}
    return {
        "id": row.id, "folder": str(row.folder), "created": row.created.isoformat(), "simulated": row.simulated,
        "servables": row.servables, "size": row.size,
    }  # fmt: skip


def _listed_cells(row: ListedRelease | FaultyRelease) -> tuple[str, ...]:
    if isinstance(row, FaultyRelease):
        return row.folder.name, "-", row.fault.code, "-", "-"
    platform = "simulated" if row.simulated else "sgx"
    return (
        row.folder.name, f"{row.created:%Y-%m-%d %H:%M:%S}", ", ".join(row.servables), platform,
        f"{row.size / 1e6:.1f} MB",
    )  # fmt: skip


@app.command()
def pack(
    context: Context,
    destination: Annotated[Path, typer.Argument(metavar="TAR", help="Tar file to create")],
    name: options.ReleaseName = None,
    force: options.Force = False,
) -> None:
    """Verify a release with its enclaves, and write it to one tar file for the host."""
    workspace = context.workspace
    folder = releases.find(workspace.owner.releases, name)
    with console.spinner(f"Packing {folder.name}"):
        releases.pack(workspace, folder, destination, overwrite=force)
    size = destination.stat().st_size
    context.show(
        {"file": str(destination), "folder": str(folder), "size": size},
        f"Wrote {destination} ({size / 1e6:.1f} MB). It contains no plaintext and no key.",
    )


@app.command()
def fetch(
    place: Place,
    address: Annotated[
        str,
        typer.Argument(
            metavar="URL", help="Address of the packed release: https://.../RELEASE.tar, or a pre-signed URL"
        ),
    ],
    owner_key: OwnerKey = None,
) -> None:
    """Fetch a packed release from a web server or an S3-compatible store to the host, and verify it.

    A release that the host already has is verified, but not fetched again.
    """
    workspace = place.workspace
    with console.spinner("Fetching the release"):
        verified = release_store.fetch(workspace, address, _key(owner_key, workspace))
    console.out.print(f"{verified.folder.name}: fetched and verified; {_enclaves(verified)}.")


@app.command()
def unpack(
    context: Context,
    source: Annotated[Path, typer.Argument(metavar="TAR", help="Tar file from `sealserve release pack`")],
    owner_key: OwnerKey = None,
) -> None:
    """Unpack a release into the host's folder, and verify it."""
    workspace = context.workspace
    with console.spinner(f"Unpacking {source.name}"):
        verified = releases.unpack(workspace, source, _key(owner_key, workspace))
    context.show(
        {"id": verified.id, "folder": str(verified.folder), "enclaves": verified.enclaves},
        f"{verified.folder.name}: unpacked to {verified.folder.parent} and verified; {_enclaves(verified)}.",
    )


app.command()(prune)
app.command()(diff)


def _key(given: Path | None, workspace: Workspace) -> Ed25519PublicKey:
    return read_owner_key(given) if given is not None else Owner.open(workspace).public_key()


def _signers(index: ReleaseIndex) -> str:
    """Return a line for each model with a verified signature."""
    return "\n".join(
        f"{item.name}:{found.version}: {found.signer.method} {found.signer.identity}"
        + (f" (issuer {found.signer.issuer})" if found.signer.issuer else "")
        for item in index.servables
        for found in item.signers
    )


def _enclaves(verified: VerifiedBundle) -> str:
    if not verified.enclaves:
        return "it does not contain enclaves yet"
    count = len(verified.enclaves)
    return "its enclave is valid" if count == 1 else f"its {count} enclaves are valid"
