"""``sealserve client``: client bundles, the files with which users call the service."""

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
    from sealserve.owner.service_certificate import trusted_by_users
    from sealserve.pki.authority import Authority, AuthorityKind
    from sealserve.pki.certificate import parse_chain
    from sealserve.whole_folder import appearing
    from sealserve.workspace import Workspace

app = Verbs("Create and read client bundles: files with everything that a user needs to call the service.")

BundlePath = Annotated[
    Path, typer.Argument(metavar="BUNDLE", help="Client bundle that the owner of the service sent you")
]
_FILES = ("service-ca.pem", "client.pem", "client.key")


@app.command()
def bundle(
    context: Context,
    user: Annotated[
        str,
        typer.Option("--for", help="Name of the user, as in `sealserve user list`", autocompletion=completion.users),
    ] = DEFAULT_USER,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="File to create (mode 0600)", show_default="NAME.json"),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Address at which the user reaches gRPC",
            show_default="the address in sealserve.toml",
        ),
    ] = None,
    rest_address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Address at which the user reaches REST",
            show_default="host of --address with service.rest_port",
        ),
    ] = None,
    force: options.Force = False,
) -> None:
    """Write a client bundle: addresses, server name, CA, certificate, private key and models in one file.

    With two-way TLS, the file contains the user's private key. Send it over a channel that others cannot read.
    Example: `sealserve client bundle --for ann --address service.example.com:443`.
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
        ca=trusted_by_users(deployment, Authority.load(workspace.owner.authorities / AuthorityKind.SERVICE)),
        certificate=None if pair is None else pair.chain_pem,
        key=None if pair is None else pair.key_pem,
        models=tuple(_model(workspace, model) for model in deployment.models),
    )
    path = output or Path(f"{user}.json")
    write_file(path, made.render().reveal(), mode=PRIVATE, overwrite=force)
    for reached, given in ((made.grpc, address), (made.rest, rest_address or address)):
        if reached is not None and given is None and _is_loopback(reached):
            console.warn(
                f"{reached} can be reached only from this machine. For a user on another machine, give --address."
            )
    context.show(
        {"file": str(path), **_public(made)},
        f"Wrote {path} for {user}. It contains the user's private key."
        if pair
        else f"Wrote {path}. It contains no secret.",
        f"Next, on the user's machine: `sealserve predict --bundle {path.name}`.",
    )


@app.command()
def show(result: Output, path: BundlePath) -> None:
    """Show the content of a client bundle, without the private key.

    Ask the owner for the fingerprint of the CA over a trusted channel, and compare it with the fingerprint in the
    output.
    """
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
            "certificate expires": public["not_after"] or "no certificate (one-way TLS)",
        },
        Table(("MODEL", "VERSION", "LABELS", "SIGNATURES"), rows, empty="The bundle lists no models."),
    )


@app.command()
def unpack(
    result: Output,
    path: BundlePath,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder to create")],
) -> None:
    """Write the certificates and the key of a client bundle as PEM files, for clients such as curl and grpcurl."""
    found = ClientBundle.read(path)
    ca, certificate, key = _FILES
    with appearing(output, mode=0o700) as folder:
        # Write only the parsed certificate: OpenSSL would also trust PEM blocks that the fingerprint does not cover.
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
    """Return a model's entry for the bundle. It has no signatures if the model is not in the workspace."""
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
    """Return the fields of a bundle for display: everything except the private key."""
    end = None if found.certificate is None else parse_chain(found.certificate)[0].not_valid_after_utc
    return {
        "user": found.user, "grpc": found.grpc, "rest": found.rest, "server_name": found.server_name,
        "ca_sha256": parse_chain(found.ca)[0].fingerprint(hashes.SHA256()).hex(),
        "not_after": None if end is None else end.isoformat(),
        "models": [model.document() for model in found.models],
    }  # fmt: skip
