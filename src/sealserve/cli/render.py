"""``sealserve render``: the files that a target would apply."""

import shlex
from typing import Annotated

import typer

from sealserve import deployment
from sealserve.cli import console
from sealserve.errors import InputError
from sealserve.ingress.nginx import worker_user
from sealserve.ingress.nginx_config import NginxConfig, Upstream, render
from sealserve.ingress.nginx_program import find_nginx

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Write the files that a target would apply.")


class ReplicaAddressError(InputError):
    """A replica's address is no HOST:PORT."""

    code = "render.replica"


@app.callback()
def _group() -> None:
    pass


@app.command()
def nginx(
    replicas: Annotated[list[str], typer.Option("--replica", metavar="HOST:PORT", help="Where a replica listens.")],
    directory: console.Directory = console.HERE,
) -> None:
    """Print NGINX's configuration, and how to start it: TLS is passed through by its server name, untouched."""
    workspace = console.find_workspace(directory)
    service = deployment.read(workspace.deployment_file).service
    program = find_nginx()
    workspace.create()
    config = NginxConfig(
        listen=service.listen,
        port=service.port,
        service_name=service.name,
        upstreams=[_upstream(text) for text in replicas],
        run_folder=workspace.host.run.resolve(),
        log_folder=workspace.host.logs.resolve(),
        stream_module=program.stream_module,
        user=worker_user(),
    )
    console.out.print(render(config), markup=False, end="")
    console.say(f"Next: write it to {config.config_file}, and run `{shlex.join(program.command(config))}`.")


def _upstream(text: str) -> Upstream:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise ReplicaAddressError(f"{text!r} is no HOST:PORT.")
    return Upstream(host.strip("[]"), int(port))
