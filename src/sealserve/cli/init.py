"""``sealserve init``: a commented ``sealserve.toml``."""

from pathlib import Path
from typing import Annotated

import typer

from sealserve import deployment, terms
from sealserve.atomic_file import write_file
from sealserve.cli import console, options
from sealserve.cli.context import Place
from sealserve.cli.verbs import Verbs
from sealserve.clouds.catalog import deployment_settings, preset_of
from sealserve.owner.owner import Owner
from sealserve.workspace import Workspace

app = Verbs()


@app.command()
def init(
    place: Place,
    model: Annotated[Path, typer.Option(help="Your frozen graph (.pb) or SavedModel folder.")] = Path(
        "resnet50-v15-fp32.pb"
    ),
    name: Annotated[str | None, typer.Option(help="The servable's name.", show_default="from the model's file")] = None,
    platform: Annotated[
        terms.PlatformKind | None,
        typer.Option(help="What runs the enclaves.", show_default="simulated, or sgx with --preset"),
    ] = None,
    preset: Annotated[
        terms.Cloud | None, typer.Option(help="Settings for a cloud's SGX machines.", show_default="none")
    ] = None,
    broker: Annotated[
        str | None,
        typer.Option(help="The name or address at which enclaves reach your broker.", show_default="127.0.0.1"),
    ] = None,
    force: options.Force = False,
) -> None:
    """Write a commented sealserve.toml, and the workspace's folders."""
    servable = name or deployment.suggest_name(model)
    settings = {} if preset is None else deployment_settings(preset_of(preset))
    if platform is not None:
        settings["platform"] = platform.value
    if broker is not None:
        settings["broker"] = {"address": broker, "listen": terms.EVERY_ADDRESS}  # enclaves are to reach it
    text = deployment.write_example({**settings, "model": {"name": servable, "path": model}})
    deployment.parse(text)
    workspace = Workspace(place.directory.resolve())
    workspace.directory.mkdir(parents=True, exist_ok=True)
    write_file(workspace.deployment_file, text.encode(), overwrite=force)
    if workspace.owner.root.exists():
        workspace.create()  # the keys in it stay; the step that needs a missing one creates it, or reports it as lost
    else:
        Owner.create(workspace)
    console.out.print(f"Wrote {workspace.deployment_file}: look at [model], then `sealserve doctor`.")
    if preset is not None:
        known = preset_of(preset)
        console.say(f"{known.title}: {known.state.value}")
        if broker is None:
            console.say(
                "broker.address is this machine's own: set it to a name that the cloud's machines reach (--broker)."
            )
    if not (place.directory / model).exists():
        console.say(f"There is no {model} yet: `sealserve model make-example` makes one to try with.")
