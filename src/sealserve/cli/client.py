"""``sealserve client``: bundles, the files with which users call the service."""

from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any

import typer

from sealserve.cli import completion, console, options
from sealserve.cli.context import Context
from sealserve.cli.deferred_imports import deferred
from sealserve.cli.output import Output, Table
from sealserve.cli.verbs import Verbs
from sealserve.errors import SealserveError
from sealserve.terms import DEFAULT_USER, TlsMode

with deferred:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding

    from sealserve.atomic_file import PRIVATE, write_file
    from sealserve.client.bundle import BundledModel, ClientBundle
    from sealserve.client.credentials import parse_endpoint, printable
    from sealserve.client.predict import Signature, TensorSpec
    from sealserve.deployment import ModelSection
    from sealserve.deployment.endpoints import endpoints_of
    from sealserve.model.saved_model import describe
    from sealserve.owner import models, users
    from sealserve.pki.authority import Authority, AuthorityKind
    from sealserve.pki.certificate import parse_chain
    from sealserve.whole_folder import appearing
    from sealserve.workspace import Workspace

app = Verbs("Pack what a user needs to call the service into one file, and read such files.")

BundlePath = Annotated[Path, typer.Argument(metavar="BUNDLE", help="The file that the owner of the service sent you.")]
_FILES = ("service-ca.pem", "client.pem", "client.key")


@app.command()
def bundle(
    context: Context,
    user: Annotated[
        str, typer.Option("--for", help="A user of `sealserve user list`.", autocompletion=completion.users)
    ] = DEFAULT_USER,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="The file.", show_default="NAME.json")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Where the user reaches gRPC.", show_default="that of sealserve.toml"),
    ] = None,
    rest_address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Where the user reaches REST.",
            show_default="the host of --address, with service.rest_port",
        ),
    ] = None,
    force: options.Force = False,
) -> None:
    """Write a user's bundle: addresses, server name, CA, certificate, private key and models in one file.

    The file has mode 0600 and holds the user's private key: send it over a channel that others cannot read.
    """
    workspace, deployment = context.workspace, context.deployment
    two_way = deployment.service.tls is TlsMode.TWO_WAY
    pair = users.credentials_of(workspace, user, now=datetime.now(UTC)) if two_way else None
    found = endpoints_of(deployment, host=None if address is None else parse_endpoint(address).host)
    made = ClientBundle(
        user=user,
        grpc=address or found.grpc,
        rest=rest_address or found.rest,
        server_name=deployment.service.name,
        ca=Authority.load(workspace.owner.authorities / AuthorityKind.SERVICE).certificate_pem,
        certificate=None if pair is None else pair.chain_pem,
        key=None if pair is None else pair.key_pem,
        models=tuple(_model(workspace, model) for model in deployment.models),
    )
    path = output or Path(f"{user}.json")
    write_file(path, made.render().reveal(), mode=PRIVATE, overwrite=force)
    for reached, given in ((made.grpc, address), (made.rest, rest_address or address)):
        if reached is not None and given is None and _is_loopback(reached):
            console.warn(f"{reached} is an address of this machine only: give --address for a user elsewhere.")
    context.show(
        {"file": str(path), **_public(made)},
        f"Wrote {path} for {user}: it holds the user's private key." if pair else f"Wrote {path}. It holds no secret.",
        f"Next, on the user's machine: `sealserve predict --bundle {path.name}`.",
    )


@app.command()
def show(result: Output, path: BundlePath) -> None:
    """Show what a bundle holds, without the private key. Compare the CA's fingerprint with the owner's."""
    found = ClientBundle.read(path)
    public = _public(found)
    rows = [
        (printable(model.name), model.version, ", ".join(map(printable, model.labels)), _signatures(model))
        for model in found.models
    ]
    result.show(
        public,
        {
            "user": printable(found.user),
            "gRPC": found.grpc,
            "REST": found.rest or "not offered",
            "server name": found.server_name,
            "CA fingerprint": public["ca_sha256"],
            "certificate ends": public["not_after"] or "no certificate (one-way TLS)",
        },
        Table(("MODEL", "VERSION", "LABELS", "SIGNATURES"), rows, empty="The bundle lists no models."),
    )


@app.command()
def unpack(
    result: Output,
    path: BundlePath,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="A new folder.")],
) -> None:
    """Write the certificates and the key of a bundle as PEM files, for clients such as curl and grpcurl."""
    found = ClientBundle.read(path)
    ca, certificate, key = _FILES
    with appearing(output, mode=0o700) as folder:
        # Only what was parsed: OpenSSL would also trust PEM blocks that the fingerprint does not cover.
        write_file(folder / ca, parse_chain(found.ca)[0].public_bytes(Encoding.PEM))
        if found.certificate is not None and found.key is not None:
            write_file(folder / certificate, found.certificate)
            write_file(folder / key, found.key.reveal(), mode=PRIVATE)
    names = _FILES if found.key is not None else (ca,)
    result.show({"folder": str(output), "files": list(names)}, f"Wrote {', '.join(names)} to {output}.")


def _is_loopback(address: str) -> bool:
    host = parse_endpoint(address).host
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _model(workspace: Workspace, model: ModelSection) -> BundledModel:
    """Return what the workspace knows of a model: without its signatures if the model is not in the workspace."""
    try:
        graph = describe(models.servable_folder(workspace, model), tags=model.tags).serving_graph
        signatures = {
            saved.name: Signature(
                method=saved.method,
                inputs={spec.name: TensorSpec(spec.dtype, spec.shape) for spec in saved.inputs},
                outputs={spec.name: TensorSpec(spec.dtype, spec.shape) for spec in saved.outputs},
            )
            for saved in graph.signatures
        }
    except SealserveError:
        signatures = {}
    return BundledModel(name=model.name, version=model.version, labels=model.labels, signatures=signatures)


def _signatures(model: BundledModel) -> str:
    return "; ".join(
        f"{printable(name, 60)}({', '.join(printable(item, 60) for item in signature.inputs)})"
        for name, signature in model.signatures.items()
    )


def _public(found: ClientBundle) -> dict[str, Any]:
    """Return a bundle without the private key."""
    end = None if found.certificate is None else parse_chain(found.certificate)[0].not_valid_after_utc
    return {
        "user": found.user, "grpc": found.grpc, "rest": found.rest, "server_name": found.server_name,
        "ca_sha256": parse_chain(found.ca)[0].fingerprint(hashes.SHA256()).hex(),
        "not_after": None if end is None else end.isoformat(),
        "models": [model.document() for model in found.models],
    }  # fmt: skip
