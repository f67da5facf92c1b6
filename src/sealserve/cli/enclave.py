"""``sealserve enclave``: manifest, measurement, signature; and running an enclave on the host."""

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

from sealserve.cli import console, options
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
    from sealserve.atomic_file import OutputExistsError, write_file
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

EnclaveName = Annotated[str, typer.Option("--name", "-n", help="The enclave's name; each replica here has its own.")]
Port = Annotated[int, typer.Option(min=1, max=LARGEST_PORT, help="Where its server listens. It is measured.")]
InventoryFile = Annotated[
    Path | None,
    typer.Option(
        "--inventory",
        "-i",
        help="What the enclave will trust where it runs, as `enclave inventory` wrote it.",
        show_default="sealserve's modules here",
    ),
]


@app.command()
def inventory(
    result: Output,
    server: Annotated[ServerKind, typer.Option(help="Which model server.")] = ServerKind.EMBEDDED,
    root: Annotated[
        Path, typer.Option(help="The folder with an image's files.", show_default="this machine's files")
    ] = Path("/"),
    program: Annotated[
        str | None,
        typer.Option(
            help="Inside the root: the server's binary, or the Python of its virtual environment.",
            show_default="this one's, or where the images have it",
        ),
    ] = None,
    gramine: Annotated[str, typer.Option(help="Inside the root: Gramine's folder.")] = GRAMINE_FOLDER,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the inventory here.")] = None,
    force: options.Force = False,
) -> None:
    """List what an enclave will trust, with digests, so that a machine without these files can measure it."""
    if output is not None and output.exists() and not force:
        raise OutputExistsError(f"{output} exists already.", hint="Give another output, or --force to replace it.")
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
        console.say("Nothing was written: give --output FILE, and FILE to `sealserve enclave build --inventory`.")


def _say_what_is_missing(taken: Inventory) -> None:
    if taken.gramine is None:
        console.say("There is no Gramine: this inventory serves simulated enclaves only.")
    if taken.uncompiled:
        console.say(
            f"{taken.uncompiled} modules have no bytecode that can be measured, and start slowly on SGX: "
            "`python -m compileall -f --invalidation-mode unchecked-hash` makes it."
        )


@app.command()
def manifest(
    context: Context,
    name: EnclaveName = "replica-0",
    port: Port = 8510,
    release: options.Release = None,
    inventory_file: InventoryFile = None,
    explain: Annotated[bool, typer.Option("--explain", help="Say how its size and threads come about.")] = False,
) -> None:
    """Print the manifest that `enclave build` would sign."""
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
    pools = f"pools of {threads.tensorflow} and {threads.inter_op}, {threads.requests} for requests"
    pools += f", {threads.rest} for REST" if threads.rest else ""
    pools += f", {threads.unbounded} without a flag"
    rows = [(item.what, f"{item.size / MEBIBYTE:.0f} MiB", item.why) for item in size.items]
    rows.append(("sum", f"{size.needed / MEBIBYTE:.0f} MiB", ""))
    rows.append(("sgx.enclave_size", f"{size.size / MEBIBYTE:.0f} MiB", size.rule))
    rows.append(("sgx.max_threads", str(threads.all), f"{pools}, {GRAMINE_THREADS} of Gramine"))
    value = {**asdict(size), "needed": size.needed, "threads": {**asdict(threads), "all": threads.all}}
    context.show(value, Table(("WHAT", "SIZE", "WHY"), rows))
    if size.size < size.needed and not context.as_json:
        console.warn("enclave.size is below the sum: the server may run out of memory.")


@app.command("lint")
@dangerous_options
def lint_manifest(
    result: Output,
    file: Annotated[Path, typer.Argument(help="A manifest: NAME.manifest.sgx, or NAME.manifest.")],
    *,
    dangerous: Collection[Danger],
) -> None:
    """Check a manifest as `enclave build --manifest` does: print each insecure or unknown setting with its line."""
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
        Path | None, typer.Option(help="The enclave signing key (PEM).", show_default="the workspace's")
    ] = None,
    new_signing_key: Annotated[
        bool,
        typer.Option("--new-signing-key", help="Make a new key that signs enclaves, if the former one was moved away."),
    ] = False,
    libpal: Annotated[
        Path | None,
        typer.Option(help="For SGX: the libpal.so that is loaded where it runs.", show_default="that of Gramine here"),
    ] = None,
    manifest_file: Annotated[
        Path | None,
        typer.Option("--manifest", help="Your own, begun with `enclave manifest`.", show_default="the one it prints"),
    ] = None,
    *,
    dangerous: Collection[Danger],
) -> None:
    """Write and sign an enclave into a release's `enclave/` folder. The same input gives the same MRENCLAVE."""
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
    context.say("Next: `sealserve broker allow`, then `sealserve release pack`.")


@app.command()
def show(
    context: Context,
    release: options.Release = None,
    host: Annotated[bool, typer.Option("--host", help="Look among the releases of the host.")] = False,
) -> None:
    """Show a release's enclaves: measurement, signer, port."""
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
    empty = f"{folder.name} has no enclaves yet: `sealserve enclave build`."
    columns = ("ENCLAVE", "PORT", "MRENCLAVE", "MRSIGNER", "DEBUG")
    context.show(rows, Table(columns, [tuple(row.values()) for row in rows], empty=empty))


@app.command()
def remove(
    context: Context,
    name: Annotated[str, typer.Option("--name", "-n", help="The enclave's name.")],
    release: options.Release = None,
) -> None:
    """Remove an enclave from a release, and sign the index of the others anew."""
    workspace = context.workspace
    folder = releases.find(workspace.owner.releases, release)
    enclaves.remove(workspace, folder, name=name)
    context.show({"enclave": name, "release": folder.name}, f"{folder.name}: the enclave {name} is removed.")
    context.say("If `sealserve broker allow` registered it, the broker still gives it the key of this release.")


class Runner(StrEnum):
    """What an enclave runs on."""

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
        typer.Option(help="What it runs on; gramine-direct is Gramine without SGX.", show_default="as it was built"),
    ] = Runner.AUTO,
    attempts: Annotated[
        int | None,
        typer.Option(min=1, help="Maximum number of starts.", show_default="on SGX no limit, simulated 1"),
    ] = None,
    socket: Annotated[Path | None, typer.Option("--quoting-socket", show_default="the simulated platform's")] = None,
    *,
    dangerous: Collection[Danger],
) -> None:
    """Start an enclave on the host: attest it to the broker, open the release, serve until stopped."""
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
        if starts > 1:  # a manifest of the owner's own making may lack the port, and needs none for one start
            serves = partial(ports.is_listening, port_of(manifest), session=os.getsid(0))
        runtime = load_simulator().enclave(quoting_socket=quoting, attempts=starts, serves=serves)
    else:
        verify = partial(enclaves.verify_bundle, folder, workspace.host.owner_key, dangerous=dangerous)
        runtime = GramineSgx(verify=verify, attempts=attempts)
    raise typer.Exit(runtime.run(folder, name, dangerous=dangerous))
