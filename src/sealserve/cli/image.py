"""``sealserve image``: the container images of a deployment."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from sealserve.cli import console
from sealserve.cli.context import Context
from sealserve.cli.deferred_imports import deferred
from sealserve.cli.output import Table
from sealserve.cli.verbs import Verbs
from sealserve.containers.recipes import DEBIAN, GRAMINE, TENSORFLOW_SERVING, ImageName
from sealserve.terms import RuntimeKind

with deferred:
    from sealserve.containers.build import BuiltImage, build_image, push_image, record_image
    from sealserve.containers.engine import Engine
    from sealserve.containers.recipes import Bases, images_for, recipe, reference

app = Verbs("Build and push the container images.")

Names = Annotated[
    list[ImageName] | None,
    typer.Argument(help="Names of the images", show_default="all images that the deployment needs"),
]
OfPlatform = Annotated[
    RuntimeKind | None,
    typer.Option("--platform", help="Platform that runs the enclaves", show_default="platform in sealserve.toml"),
]


@app.command()
def build(
    context: Context,
    names: Names = None,
    platform: OfPlatform = None,
    base: Annotated[str, typer.Option(help="Base image with Debian 12")] = DEBIAN,
    gramine: Annotated[str, typer.Option(help="Base image with Gramine, for the image server-gramine")] = GRAMINE,
    tensorflow_serving: Annotated[
        str,
        typer.Option(
            help="Image with tensorflow_model_server, for server-gramine with server.kind = tensorflow-serving"
        ),
    ] = TENSORFLOW_SERVING,
    wheels: Annotated[
        Path | None, typer.Option(help="Folder for the locked Python wheels", show_default=".sealserve/wheels")
    ] = None,
    network: Annotated[
        str | None, typer.Option(help="Network of the container engine for the build", show_default="engine's default")
    ] = None,
) -> None:
    """Build the container images, with a bill of materials (SBOM) for each.

    For an image with a model server, the command also writes the inventory from which enclaves are measured. An image
    does not contain secrets or keys. The Python packages are fetched before the build, and each is checked against its
    locked hash. During the build, only the distribution's packages come from the network.
    """
    workspace, described = context.workspace, context.deployment
    workspace.create()
    engine = Engine()
    bases = Bases(debian=base, gramine=gramine, tensorflow_serving=tensorflow_serving)
    built = []
    with console.spinner("Building") as tell:
        engine.require()
        for name in names or images_for(platform or described.runtime):
            made = build_image(
                engine,
                recipe(name, bases=bases, server=described.server.kind),
                reference(described.images.prefix, name, described.images.tag),
                wheels=wheels or workspace.root / "wheels",
                records=workspace.owner.images,
                network=network,
                tell=tell,
            )
            built.append(made)
    _show(context, built)
    context.say("Next: `sealserve up --target docker`, or `sealserve image push`.")


@app.command()
def push(context: Context, names: Names = None, platform: OfPlatform = None) -> None:
    """Push the images to the registry in images.prefix, and record their digests.

    Log in first: `docker login`.
    """
    workspace, described = context.workspace, context.deployment
    workspace.create()
    engine = Engine()
    pushed = []
    with console.spinner("Pushing") as tell:
        engine.require()
        for name in names or images_for(platform or described.runtime):
            image = push_image(engine, reference(described.images.prefix, name, described.images.tag), tell=tell)
            pushed.append(
                record_image(engine, name, image.reference, bases=None, records=workspace.owner.images, tell=tell)
            )
    _show(context, pushed)


def _show(context: Context, images: list[BuiltImage]) -> None:
    rows = [(image.reference, f"{image.size / 1e6:.0f} MB", image.id[7:19], image.sbom) for image in images]
    context.show(
        [dataclasses.asdict(image) for image in images], Table(("IMAGE", "SIZE", "ID", "BILL OF MATERIALS"), rows)
    )
