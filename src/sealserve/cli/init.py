"""``sealserve init``: write ``sealserve.toml`` for a model, and create the workspace."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import typer

from sealserve import terms
from sealserve.cli import options
from sealserve.cli.codes import CliCode
from sealserve.cli.context import Context
from sealserve.cli.deferred_imports import deferred
from sealserve.cli.verbs import Verbs
from sealserve.errors import InputError

with deferred:
    from sealserve import deployment
    from sealserve.atomic_file import OutputExistsError, write_file
    from sealserve.cli.questions import ask, can_ask
    from sealserve.clouds.catalog import deployment_settings, preset_of
    from sealserve.deployment import Deployment
    from sealserve.deployment.codes import DeploymentCode
    from sealserve.model.source import Source, candidates, find_source
    from sealserve.owner.owner import Owner
    from sealserve.workspace import Workspace

EXAMPLE_MODEL: Final = Path("resnet50-v15-fp32.pb")
"""The default model: `sealserve model make-example` creates it."""

app = Verbs()

_Kind = TypeVar("_Kind", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class _Choices:
    """The user's choices, from options or answers. None means the default of ``sealserve.toml``."""

    model: Source
    target: terms.TargetKind | None
    replicas: int | None
    tls: terms.TlsMode | None


@app.command()
def init(
    context: Context,
    model: Annotated[
        Path | None,
        typer.Option(
            help="Your model: a SavedModel folder or a frozen graph (.pb)",
            show_default="the model in this folder, or an example",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Name with which clients request the model", show_default="from the model's file name"),
    ] = None,
    target: Annotated[
        terms.TargetKind | None,
        typer.Option(
            "--target", "-t", help="Target that runs the deployment", show_default="local, or docker with --preset"
        ),
    ] = None,
    replicas: Annotated[
        int | None, typer.Option(min=1, help="Number of replicas (enclaves that serve)", show_default="2")
    ] = None,
    tls: Annotated[
        terms.TlsMode | None,
        typer.Option(help="two-way: users need a client certificate; one-way: they do not", show_default="two-way"),
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option(help="IP address on which the service listens; :: means all addresses", show_default="127.0.0.1"),
    ] = None,
    platform: Annotated[
        terms.RuntimeKind | None,
        typer.Option(help="Platform that runs the enclaves", show_default="simulated, or sgx with --preset"),
    ] = None,
    preset: Annotated[
        terms.Cloud | None, typer.Option(help="Settings for the SGX machines of a cloud", show_default="none")
    ] = None,
    broker: Annotated[
        str | None,
        typer.Option(help="DNS name or IP address at which enclaves reach your broker", show_default="127.0.0.1"),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Write every setting instead of only the common ones")] = False,
    force: options.Force = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Use the defaults without asking")] = False,
) -> None:
    """Write sealserve.toml for your model, and create the workspace.

    On a terminal, `init` asks for the model, the target, the number of replicas and the TLS mode. It does not ask for a
    value that an option gives. Example: `sealserve init --model my-model --replicas 3`.
    """
    # 1. Reject a folder that cannot contain a workspace, before any question is asked.
    workspace = Workspace(_existing_folder(context.directory))
    if workspace.deployment_file.exists() and not force:
        raise OutputExistsError(f"{workspace.deployment_file} already exists.", hint="Edit it, or use --force.")
    # 2. Decide: options first, then answers, then defaults.
    defaults: dict[str, Any] = {} if preset is None else deployment_settings(preset_of(preset))
    choices = _chosen(
        context.directory, model, target, replicas, tls,
        ask_for=not (yes or context.as_json) and can_ask(), default_target=defaults.get("target", {}).get("kind"),
    )  # fmt: skip
    if workspace.directory.is_relative_to((workspace.directory / choices.model.path).resolve()):
        raise CliCode.INIT_FOLDER.error(
            f"The workspace cannot be created: its folder is inside the model {choices.model.path}.",
            hint="Run `sealserve init` in another folder.",
        )
    # 3. Describe the deployment, and validate the description before anything is written.
    settings = _with(
        defaults,
        platform=platform,
        model={
            "name": name or deployment.suggest_name(workspace.directory / choices.model.path),
            "path": choices.model.path,
            "version": choices.model.version,
        },
        service={"tls": choices.tls, "listen": listen},
        broker={} if broker is None else {"address": broker, "listen": terms.EVERY_ADDRESS},
        target={"kind": choices.target, "replicas": choices.replicas},
    )
    text = deployment.write_example(settings) if full else deployment.write_short(settings)
    try:
        content = text.encode()
    except UnicodeEncodeError as error:  # sealserve.toml is UTF-8, and a path on Linux may be any bytes
        message = f"sealserve.toml cannot contain the model's path: {str(choices.model.path)!r} is not valid UTF-8."
        raise DeploymentCode.INVALID_VALUE.error(message, hint="Rename the model's file or folder.") from error
    described = deployment.parse(text)
    # 4. Write the file, and create the owner's signing keys where they do not exist.
    write_file(workspace.deployment_file, content, overwrite=force)
    if workspace.owner.root.exists():
        workspace.create()  # existing keys stay; a later step creates a missing key, or reports it as lost
    else:
        Owner.create(workspace)
    # 5. Report the result and the next step.
    missing = not (workspace.directory / choices.model.path).exists()
    following = _next_steps(described, example_missing=missing)
    context.show(_as_json(workspace, described, following), f"Wrote {workspace.deployment_file}.")
    if choices.model.other_versions:
        others = ", ".join(map(str, choices.model.other_versions))
        context.say(f"The service will serve version {choices.model.version} of the model, but not: {others}.")
    if preset is not None:
        known = preset_of(preset)
        context.say(f"{known.title}: {known.state.value}")
    if described.platform is terms.PlatformKind.SGX and broker is None:
        context.say(
            f"broker.address is {described.broker.address}. Set it to a name or address at which the host reaches the "
            "broker (--broker)."
        )
    context.say(f"Next: {', then '.join(f'`{step}`' for step in following)}.")


def _existing_folder(directory: Path) -> Path:
    if not directory.is_dir():
        what = "is not a folder" if directory.exists() else "does not exist"
        raise CliCode.INIT_FOLDER.error(
            f"The workspace cannot be created: {directory} {what}.", hint=f"Create the folder: `mkdir {directory}`."
        )
    return directory.resolve()


def _chosen(
    folder: Path,
    model: Path | None,
    target: terms.TargetKind | None,
    replicas: int | None,
    tls: terms.TlsMode | None,
    *,
    ask_for: bool,
    default_target: str | None,
) -> _Choices:
    found = None if model is None else _source(folder, model)
    if not ask_for:
        return _Choices(found or _default_source(folder), target, replicas, tls)
    if found is None:
        default = str(_default_source(folder).path)
        found = ask("SavedModel folder or frozen graph", default, lambda text: _answered_source(folder, text))
    if target is None:
        question = f"Target ({', '.join(terms.TargetKind)})"
        default = default_target or terms.TargetKind.LOCAL.value
        target = ask(question, default, lambda text: _one_of(terms.TargetKind, text))
    if replicas is None:
        replicas = ask("Replicas", "2", _positive)
    if tls is None:
        question = "TLS, two-way (users need a client certificate) or one-way"
        tls = ask(question, terms.TlsMode.TWO_WAY.value, lambda text: _one_of(terms.TlsMode, text))
    return _Choices(found, target, replicas, tls)


def _source(folder: Path, path: Path) -> Source:
    """Return the model at a path. A relative path is resolved against ``folder`` and stays relative."""
    found = find_source(folder / path)
    relative = not path.is_absolute() and found.path.is_relative_to(folder)
    return Source(
        path=found.path.relative_to(folder) if relative else found.path,
        version=found.version,
        other_versions=found.other_versions,
    )


def _answered_source(folder: Path, answer: str) -> Source:
    path = Path(answer).expanduser()
    return Source(path=path) if path == EXAMPLE_MODEL else _source(folder, path)


def _default_source(folder: Path) -> Source:
    """Return the model in the folder if it is the only one, else the example, which the user can create there."""
    there = candidates(folder)
    return _source(folder, there[0].relative_to(folder)) if len(there) == 1 else Source(path=EXAMPLE_MODEL)


def _one_of(kind: type[_Kind], answer: str) -> _Kind:
    try:
        return kind(answer.lower())
    except ValueError:
        close = difflib.get_close_matches(answer.lower(), list(kind), n=1)
        hint = f"Did you mean {close[0]}?" if close else None
        raise InputError(f"The answer is invalid: expected {' or '.join(kind)}, got {answer!r}.", hint=hint) from None


def _positive(answer: str) -> int:
    if not (answer.isascii() and answer.isdecimal() and 0 < len(answer) < 10 and int(answer)):  # noqa: PLR2004
        raise InputError(f"The answer is invalid: expected a number of at least 1, got {answer!r}.")
    return int(answer)


def _with(defaults: Mapping[str, Any], **chosen: Any) -> dict[str, Any]:
    """Return the default settings with the user's choices. Tables are merged; None means no choice."""
    settings = dict(defaults)
    for key, value in chosen.items():
        if isinstance(value, dict):
            table = {name: item for name, item in value.items() if item is not None}
            if table:
                settings[key] = {**settings.get(key, {}), **table}
        elif value is not None:
            settings[key] = value
    return settings


def _next_steps(described: Deployment, *, example_missing: bool) -> list[str]:
    steps = []
    if example_missing:
        steps.append(f"sealserve model make-example {described.model.path}")
    local = described.target.kind is terms.TargetKind.LOCAL
    if described.runtime is terms.RuntimeKind.SGX or (local and described.runtime is terms.RuntimeKind.GRAMINE_DIRECT):
        steps.append("sealserve doctor")
    elif local:
        steps.append("sealserve up")
    else:
        steps += ["sealserve image build", "sealserve up"]
    return steps


def _as_json(workspace: Workspace, described: Deployment, following: list[str]) -> dict[str, Any]:
    model = described.model
    return {
        "file": str(workspace.deployment_file),
        "model": {"name": model.name, "version": model.version, "path": str(model.path)},
        "platform": described.runtime,
        "target": described.target.kind,
        "replicas": described.target.replicas,
        "tls": described.service.tls,
        "listen": described.service.listen,
        "next": following,
    }
