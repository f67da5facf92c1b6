"""``sealserve render``: write the files that a target would apply."""

import shlex
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sealserve.cli import console, options
from sealserve.cli.bundles import Machines
from sealserve.cli.codes import CliCode
from sealserve.cli.context import Place
from sealserve.cli.deferred_imports import deferred
from sealserve.cli.verbs import Verbs
from sealserve.tcp_ports import rest_port_beside

with deferred:
    from sealserve.atomic_file import OutputExistsError, write_file
    from sealserve.cli.bundles import bundle_for, received
    from sealserve.cli.first_steps import take_first_steps
    from sealserve.cluster.docker import DockerTarget
    from sealserve.cluster.kubernetes import files, shipping
    from sealserve.cluster.kubernetes.monitoring import prometheus_files
    from sealserve.cluster.kubernetes.objects import objects
    from sealserve.cluster.kubernetes.target import KubernetesTarget
    from sealserve.cluster.targets import check_replicas
    from sealserve.ingress.nginx import worker_user
    from sealserve.ingress.nginx_config import NginxConfig, RestRoute, Upstream, render
    from sealserve.ingress.nginx_program import find_nginx
    from sealserve.owner import releases
    from sealserve.owner.owner import Owner

app = Verbs("Write the files that a target would apply.")


class Form(StrEnum):
    """The form in which the Kubernetes objects are written."""

    KUSTOMIZATION = "kustomization"
    HELM = "helm"


@app.callback()
def _group() -> None:
    pass


@app.command()
def nginx(
    place: Place,
    replicas: Annotated[
        list[str],
        typer.Option(
            "--replica",
            metavar="HOST:PORT",
            help="Address of a replica's gRPC port; repeat the option for each replica",
        ),
    ],
) -> None:
    """Print an NGINX configuration for the replicas, and the command that starts NGINX with it.

    NGINX selects the service by the TLS server name, and forwards the connections without decrypting them.
    """
    workspace = place.workspace
    service = place.deployment.service
    program = find_nginx()
    workspace.create()
    upstreams = [_upstream(text) for text in replicas]
    # A replica's REST port follows from its gRPC port. It is open if REST was on when the enclave was built.
    rest = [Upstream(upstream.host, rest_port_beside(upstream.port)) for upstream in upstreams]
    config = NginxConfig(
        listen=service.listen,
        port=service.port,
        service_name=service.name,
        upstreams=upstreams,
        rest=RestRoute(port=service.rest_port, upstreams=rest) if place.deployment.server.rest else None,
        run_folder=workspace.host.run.resolve(),
        log_folder=workspace.host.logs.resolve(),
        stream_module=program.stream_module,
        user=worker_user(),
    )
    console.out.print(render(config), end="")
    console.say(
        f"Next: write the configuration to {config.config_file}, and run `{shlex.join(program.command(config))}`."
    )


@app.command()
def kubernetes(
    place: Place,
    release: options.Release = None,
    host: Annotated[bool, typer.Option("--host", help="Use the host's releases instead of the owner's")] = False,
    replicas: Annotated[
        int | None, typer.Option(min=1, help="Number of replicas", show_default="target.replicas")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder to create for the files", show_default="standard output"),
    ] = None,
    form: Annotated[
        Form, typer.Option("--as", help="Format of the files in the folder of --output")
    ] = Form.KUSTOMIZATION,
    force: options.Force = False,
) -> None:
    """Print the Kubernetes objects as YAML, or write them as a kustomization or a Helm chart.

    The objects do not contain secrets.
    """
    workspace = place.workspace
    described = place.deployment
    check_replicas(workspace, described, "kubernetes", replicas or described.target.replicas)
    folder = releases.find((workspace.host if host else workspace.owner).releases, release)
    if not host:  # pods verify the release with this key, so it must be the owner's current public key
        workspace.create()
        Owner.open(workspace).publish_key()
    bundle = received(workspace, folder, KubernetesTarget(workspace, described).destination(folder.name, 1))
    context = shipping.render_context(workspace, described, bundle, replicas=replicas)
    made = objects(context)
    if output is None:
        console.out.print(files.documents(context, made), end="")
        return
    if form is Form.HELM:
        written = files.chart(context, made)
        following = f"helm install sealserve {output} --namespace {described.kubernetes.namespace} --create-namespace"
    else:
        written = files.kustomization(context, made)
        following = f"kubectl apply --server-side --kustomize {output}"
    _write(output, written, overwrite=force)
    console.say(f"Wrote {len(written)} files to {output}. Next: `{following}`.")


def _write(output: Path, written: Mapping[str, str], *, overwrite: bool) -> None:
    if output.is_dir() and any(output.iterdir()) and not overwrite:
        raise OutputExistsError(
            f"{output} already contains files.", hint="Give another folder, or --force to replace the files."
        )
    for name, text in written.items():
        path = output / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, text.encode())


@app.command()
def monitoring(
    place: Place,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to create for the files")],
    force: options.Force = False,
) -> None:
    """Write Prometheus alert rules, a scrape configuration and a Grafana dashboard.

    The files are for a Prometheus and a Grafana that run without Kubernetes operators.
    """
    described = place.deployment
    written = prometheus_files(described)
    _write(output, written, overwrite=force)
    if described.broker.metrics_port is None:
        console.say("The broker's metrics are off: set broker.metrics_port, and restart the broker.")
    if described.server.metrics_port is None:
        console.say(
            "The replicas' metrics are off: set server.metrics_port, and build a new release, because the port is part "
            "of the measurement."
        )
    console.say(
        f"Wrote {len(written)} files to {output}. Next: `promtool check config --syntax-only {output}/prometheus.yaml`."
    )


@app.command()
def docker(
    place: Place,
    release: options.Release = None,
    replicas: Annotated[
        int | None, typer.Option(min=1, show_default="target.replicas", help="Number of replicas")
    ] = None,
    role: Annotated[
        Machines,
        typer.Option("--role", help="Roles of this machine. all: owner and host; host: the broker runs elsewhere"),
    ] = Machines.ALL,
    gramine_direct: Annotated[
        bool, typer.Option("--gramine-direct", help="Allow the system call that gramine-direct needs")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to create", show_default="standard output")
    ] = None,
    force: options.Force = False,
) -> None:
    """Print a compose.yaml that starts the same containers as `sealserve up --target docker`.

    Models, certificates and a release are created first if they do not exist.
    """
    workspace = place.workspace
    described = place.deployment
    count = replicas or described.target.replicas
    check_replicas(workspace, described, "docker", count)
    with console.spinner("Rendering") as tell:
        target = DockerTarget(workspace, described, tell=tell, gramine_direct=gramine_direct)
        if role is Machines.ALL:
            take_first_steps(workspace, described, tell=tell)
        folder = releases.find(role.releases(workspace), release)
        bundle = bundle_for(workspace, folder, target.destination(folder.name, count), role, tell=tell)
        text = target.render(bundle, count)
    if output is None:
        console.out.print(text, end="")
    else:
        write_file(output, text.encode(), overwrite=force)
        console.say(f"Next: `docker compose --file {output} up --detach --wait`.")


def _upstream(text: str) -> Upstream:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise CliCode.RENDER_REPLICA.error(
            f"The address of a replica is invalid: expected HOST:PORT, got {text!r}.",
            hint="Use the form HOST:PORT: --replica 127.0.0.1:8510.",
        )
    return Upstream(host.strip("[]"), int(port))
