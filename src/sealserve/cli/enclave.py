"""``sealserve enclave``: build an enclave (manifest, measurement, signature), and run it on the host."""

import os
import sys
import tomllib
from collections.abc import Collection
from dataclasses import asdict
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from sealserve.cli import console, enclave_token, options
from sealserve.cli.context import Context, Place
from sealserve.cli.dangerous_options import dangerous_options
from sealserve.cli.deferred_imports import deferred
from sealserve.cli.output import Output, Table
from sealserve.cli.verbs import Verbs
from sealserve.enclave.findings import Danger
from sealserve.enclave.server_files import GRAMINE_FOLDER
from sealserve.tcp_ports import LARGEST_PORT
from sealserve.terms import ServerKind

with deferred:
    from sealserve.atomic_file import write_file
    from sealserve.cluster import ports
    from sealserve.enclave.findings import refuse
    from sealserve.enclave.image_root import ImageRoot
    from sealserve.enclave.inventory import Inventory, read_inventory, take_inventory
    from sealserve.enclave.launch.gramine_sgx import GramineSgx
    from sealserve.enclave.launch.runtime import Runtime
    from sealserve.enclave.launch.simulator import load_simulator
    from sealserve.enclave.manifest_reader import examine, refuse_template
    from sealserve.enclave.measurement import MAX_MANIFEST_SIZE, enclave_names, load_enclave, port_of
    from sealserve.enclave.server_command import GRAMINE_THREADS, Threads, threads_of
    from sealserve.enclave.server_files import PROGRAMS
    from sealserve.enclave.sizing import MEBIBYTE, EnclaveSize
    from sealserve.owner import enclaves, releases
    from sealserve.owner.owner import Owner
    from sealserve.owner.simulation import quoting_socket
    from sealserve.regular_file import read_regular

app = Verbs("Build, show and run enclaves.")
app.command("token")(enclave_token.token)

EnclaveName = Annotated[
    str, typer.Option("--name", "-n", help="Name of the enclave; each replica of a machine has its own enclave")
]
Port = Annotated[
    int, typer.Option(min=1, max=LARGEST_PORT, help="TCP port of the model server; it is part of the measurement")
]
InventoryFile = Annotated[
    Path | None,
    typer.Option(
        "--inventory",
        "-i",
        help="Inventory of the files that the enclave trusts on its host, from `sealserve enclave inventory`",
        show_default="sealserve's modules on this machine",
    ),
]


@app.command()
def inventory(
    result: Output,
    server: Annotated[ServerKind, typer.Option(help="Model server of the enclave")] = ServerKind.EMBEDDED,
    root: Annotated[
        Path, typer.Option(help="Folder with the files of an image", show_default="this machine's files")
    ] = Path("/"),
    program: Annotated[
        str | None,
        typer.Option(
            help="Path, inside the root, of the server's binary or of the Python of its virtual environment",
            show_default="this Python, or its path in the images",
        ),
    ] = None,
    gramine: Annotated[str, typer.Option(help="Path of Gramine's folder inside the root")] = GRAMINE_FOLDER,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to create for the inventory", show_default="none: only a summary"),
    ] = None,
    force: options.Force = False,
) -> None:
    """List the files that an enclave will trust, with their SHA-256.

    With the inventory, a machine without these files can measure and sign the enclave.
    """
    options.refuse_existing(output, force=force)
    image = ImageRoot(root.absolute())
    here = sys.executable if server is ServerKind.EMBEDDED and image.is_this_machine else PROGRAMS[server]
    with console.bytes_progress("Measuring", 0) as progress:
        taken = take_inventory(image, server, program=program or here, gramine=gramine, progress=progress)
    if output is not None:
        write_file(output, taken.to_bytes(), overwrite=force)
    fields: dict[str, object] = {
        "server": taken.server.value,
        "program": taken.program,
        "gramine": taken.gramine.folder if taken.gramine else None,
        "files": len(taken.files),
        "bytes": taken.size,
        "sha256": taken.digest,
        "output": str(output) if output else None,
    }
    result.show(fields, {name: value for name, value in fields.items() if value is not None})
    if result.as_json:
        return
    _say_what_is_missing(taken)
    if output is None:
        console.say(
            "The inventory was not written. To use it, run the command with --output FILE, then `sealserve enclave "
            "build --inventory FILE`."
        )


def _say_what_is_missing(taken: Inventory) -> None:
    if taken.gramine is None:
        console.say("Gramine was not found, so this inventory can be used only for simulated enclaves.")
    if taken.uncompiled:
        console.say(
            f"{taken.uncompiled} modules do not have bytecode that can be measured, so the enclave starts slowly on "
            "SGX. Create the bytecode: `python -m compileall -f --invalidation-mode unchecked-hash`."
        )


@app.command()
def manifest(
    context: Context,
    name: EnclaveName = "replica-0",
    port: Port = 8510,
    release: options.Release = None,
    inventory_file: InventoryFile = None,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain", help="Explain the enclave's size and number of threads instead of printing the manifest"
        ),
    ] = False,
) -> None:
    """Print the manifest that `sealserve enclave build` would sign."""
    workspace, described = context.workspace, context.deployment
    folder = releases.find(workspace.owner.releases, release)
    trusted = read_inventory(inventory_file) if inventory_file else None
    if explain:
        size = enclaves.explain_size(described, releases.verify(folder, Owner.open(workspace).public_key()), trusted)
        _explain(context, size, threads_of(described))
        return
    spec = enclaves.specify(workspace, described, folder, name=name, port=port, inventory=trusted)
    text = enclaves.specified_manifest(workspace, spec).to_bytes().decode()
    if context.as_json:
        context.show(tomllib.loads(text))
    else:
        sys.stdout.write(text)


def _explain(context: Context, size: EnclaveSize, threads: Threads) -> None:
    pools = f"TensorFlow's pools {threads.tensorflow} + {threads.inter_op}, requests {threads.requests}"
    pools += f", REST {threads.rest}" if threads.rest else ""
    pools += f", threads without a flag {threads.unbounded}"
    rows = [(item.what, f"{item.size / MEBIBYTE:.0f} MiB", item.why) for item in size.items]
    rows.append(("sum", f"{size.needed / MEBIBYTE:.0f} MiB", ""))
    rows.append(("sgx.enclave_size", f"{size.size / MEBIBYTE:.0f} MiB", size.rule))
    rows.append(("sgx.max_threads", str(threads.all), f"{pools}, Gramine {GRAMINE_THREADS}"))
    value = {**asdict(size), "needed": size.needed, "threads": {**asdict(threads), "all": threads.all}}
    context.show(value, Table(("WHAT", "SIZE", "WHY"), rows))
    if size.size < size.needed and not context.as_json:
        console.warn("enclave.size is smaller than the sum above: the server may run out of memory.")


@app.command("lint")
@dangerous_options
def lint_manifest(
    result: Output,
    file: Annotated[Path, typer.Argument(help="Manifest file: NAME.manifest.sgx or NAME.manifest")],
    *,
    dangerous: Collection[Danger],
) -> None:
    """Check a manifest, and print each insecure or unknown setting with its line.

    `sealserve enclave build --manifest` applies the same checks.
    """
    raw = _read_manifest(file)
    refuse_template(raw, name=str(file))
    findings = examine(raw, name=str(file)).findings
    if result.as_json and {finding.danger for finding in findings} <= set(dangerous):
        shown = ("line", "setting", "reason", "danger", "path")
        result.show([{field: getattr(finding, field) for field in shown} for finding in findings])
        return
    refuse(findings, dangerous, name=str(file))
    if findings:
        rows = [(finding.line, finding.setting, finding.danger, finding.reason) for finding in findings]
        console.print_table(("LINE", "SETTING", "DANGER", "REASON"), rows)
    else:
        console.out.print(f"{file} has no insecure settings.")


def _read_manifest(file: Path) -> bytes:
    return read_regular(file, limit=MAX_MANIFEST_SIZE)


@app.command()
@dangerous_options
def build(
    context: Context,
    name: EnclaveName = "replica-0",
    port: Port = 8510,
    release: options.Release = None,
    inventory_file: InventoryFile = None,
    signing_key: Annotated[
        Path | None, typer.Option(help="Key that signs the enclave (PEM)", show_default="the workspace's key")
    ] = None,
    new_signing_key: Annotated[
        bool,
        typer.Option(
            "--new-signing-key", help="Create a new key that signs enclaves, if the previous key file is missing"
        ),
    ] = False,
    libpal: Annotated[
        Path | None,
        typer.Option(
            help="The libpal.so of Gramine on the SGX host; it is part of the measurement",
            show_default="this machine's Gramine",
        ),
    ] = None,
    manifest_file: Annotated[
        Path | None,
        typer.Option(
            "--manifest",
            help="Your own manifest, based on the output of `sealserve enclave manifest`",
            show_default="the output of that command",
        ),
    ] = None,
    *,
    dangerous: Collection[Danger],
) -> None:
    """Build and sign an enclave in a release's `enclave/` folder.

    The same input always gives the same MRENCLAVE. An enclave of the same name is replaced.
    """
    workspace, described = context.workspace, context.deployment
    folder = releases.find(workspace.owner.releases, release)
    trusted = read_inventory(inventory_file) if inventory_file else None
    spec = enclaves.specify(workspace, described, folder, name=name, port=port, inventory=trusted)
    if new_signing_key:
        Owner.open(workspace).create_enclave_key(replace_lost=True)
    with console.spinner("Measuring and signing"):
        built = enclaves.build(
            workspace,
            folder,
            spec,
            now=datetime.now(UTC),
            signing_key=signing_key,
            libpal=libpal,
            manifest=_read_manifest(manifest_file) if manifest_file else None,
            dangerous=dangerous,
        )
    fields: dict[str, object] = {
        "enclave": built.name,
        "release": folder.name,
        "mr_enclave": built.mr_enclave.hex(),
        "mr_signer": built.mr_signer.hex(),
        "isv_prod_id": built.isv_prod_id,
        "isv_svn": built.isv_svn,
        "platform": "simulated" if built.simulated else "sgx",
        "manifest": str(built.manifest),
    }
    context.show(fields, fields)
    context.say("Next: `sealserve broker allow` to register the enclave, then `sealserve release pack`.")


@app.command()
def show(
    context: Context,
    release: options.Release = None,
    host: Annotated[bool, typer.Option("--host", help="Use the host's releases instead of the owner's")] = False,
) -> None:
    """Show the enclaves of a release: MRENCLAVE, MRSIGNER, port and debug mode."""
    workspace = context.workspace
    folder = releases.find((workspace.host if host else workspace.owner).releases, release)
    rows = []
    for name in enclave_names(folder):
        loaded = load_enclave(folder, name)
        rows.append({
            "enclave": name,
            "port": port_of(loaded.manifest),
            "mr_enclave": loaded.sigstruct.mr_enclave.hex(),
            "mr_signer": loaded.sigstruct.mr_signer.hex(),
            "debug": loaded.sigstruct.attributes.debug,
        })  # fmt: skip
    empty = f"{folder.name} does not contain enclaves yet. Build one: `sealserve enclave build`."
    columns = ("ENCLAVE", "PORT", "MRENCLAVE", "MRSIGNER", "DEBUG")
    context.show(rows, Table(columns, [tuple(row.values()) for row in rows], empty=empty))


@app.command()
def remove(
    context: Context,
    name: Annotated[str, typer.Option("--name", "-n", help="Name of the enclave")],
    release: options.Release = None,
) -> None:
    """Remove an enclave from a release, and sign the index of the remaining enclaves again.

    If the enclave was registered with the broker, it can still receive the key of this release.
    """
    workspace = context.workspace
    folder = releases.find(workspace.owner.releases, release)
    enclaves.remove(workspace, folder, name=name)
    context.show({"enclave": name, "release": folder.name}, f"Removed the enclave {name} from {folder.name}.")
    context.say(
        f"If {name} was registered with the broker, it can still receive the key of this release. To prevent that, run "
        f"`sealserve broker revoke {folder.name}`."
    )


class Runner(StrEnum):
    """The runtime that runs an enclave."""

    AUTO = "auto"
    SGX = "sgx"
    GRAMINE_DIRECT = "gramine-direct"
    SIMULATED = "simulated"


@app.command()
@dangerous_options
def run(
    place: Place,
    name: EnclaveName = "replica-0",
    release: options.Release = None,
    platform: Annotated[
        Runner,
        typer.Option(
            help="Runtime of the enclave; gramine-direct is Gramine without SGX, for tests",
            show_default="as the enclave was built",
        ),
    ] = Runner.AUTO,
    attempts: Annotated[
        int | None,
        typer.Option(min=1, help="Maximum number of start attempts", show_default="no limit on SGX, 1 if simulated"),
    ] = None,
    socket: Annotated[
        Path | None,
        typer.Option(
            "--quoting-socket",
            help="Unix socket of the simulated quoting service",
            show_default="the simulated platform's socket",
        ),
    ] = None,
    *,
    dangerous: Collection[Danger],
) -> None:
    """Run an enclave on the host: attest to the broker, decrypt the release, and serve until stopped."""
    console.log_to_standard_error()
    workspace = place.workspace
    folder = releases.find(workspace.host.releases, release)
    runtime: Runtime
    quoting = socket or quoting_socket(workspace)
    if platform is Runner.GRAMINE_DIRECT:
        runtime = load_simulator().gramine_direct(quoting_socket=quoting)
        raise typer.Exit(runtime.run(folder, name, dangerous=dangerous))
    manifest = load_enclave(folder, name, dangerous=dangerous).manifest
    if Runner.SIMULATED in {platform, manifest.loader.env["SEALSERVE_PLATFORM"]} and platform is not Runner.SGX:
        starts, serves = attempts or 1, None
        if starts > 1:  # only here: the port may be missing in a manifest that the owner wrote
            serves = partial(ports.is_listening, port_of(manifest), session=os.getsid(0))
        runtime = load_simulator().enclave(quoting_socket=quoting, attempts=starts, serves=serves)
    else:
        verify = partial(enclaves.verify_bundle, folder, workspace.host.owner_key, dangerous=dangerous)
        runtime = GramineSgx(verify=verify, attempts=attempts)
    raise typer.Exit(runtime.run(folder, name, dangerous=dangerous))
