"""``sealserve cloud``: facts about clouds with SGX machines, each with its source."""

import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Any

import typer

from sealserve.cli import console
from sealserve.cli.deferred_imports import deferred
from sealserve.cli.output import Output
from sealserve.cli.verbs import Verbs
from sealserve.terms import Cloud

with deferred:
    from sealserve.clouds.catalog import PRESETS, preset_of, quote_provider_settings
    from sealserve.clouds.facts import PORTS, Basis, Fact, Preset

app = Verbs("Show clouds with SGX machines: sizes, images, addresses, sources.")

Name = Annotated[Cloud, typer.Argument(metavar="CLOUD", help="Name of a cloud, as in `sealserve cloud list`")]
Region = Annotated[
    str | None, typer.Option(help="Region, for clouds whose certificate service has one address per region")
]


@app.command("list")
def list_clouds(result: Output) -> None:
    """List the supported clouds, with the current state of each."""
    if result.as_json:
        result.show([{"cloud": preset.cloud, "title": preset.title, "state": preset.state.value}
                     for preset in PRESETS.values()])  # fmt: skip
        return
    for preset in PRESETS.values():
        console.out.print(f"{preset.cloud}  ", end="", style="bold")
        console.out.print(preset.title)
        console.out.print(f"  {preset.state.value}", style="dim")


@app.command()
def show(result: Output, name: Name) -> None:
    """Show the facts about a cloud, the source of each fact, and which facts are not verified."""
    preset = preset_of(name)
    if result.as_json:
        result.show({**asdict(preset), "ports": dict(PORTS), "guide": preset.guide})
        return
    console.out.print(preset.title, style="bold")
    for label, text, fact in _rows(preset):
        console.out.print(f"{label:<15}", end="", style="dim")
        console.out.print(text)
        for line in _footnotes(fact) if fact else ():
            console.out.print(f"{'':<15}{line}", style="dim")
    for port, purpose in PORTS:
        console.out.print(f"{'port':<15}", end="", style="dim")
        console.out.print(f"{port}: {purpose}")
    console.out.print(f"{'guide':<15}", end="", style="dim")
    console.out.print(preset.guide)


@app.command()
def qcnl(name: Name, region: Region = None) -> None:
    """Print /etc/sgx_default_qcnl.conf for a machine of a cloud.

    The file configures where the quoting service aesmd gets the platform's certificates.
    """
    sys.stdout.write(quote_provider_settings(preset_of(name), region))


def _rows(preset: Preset) -> Iterator[tuple[str, str, Fact[Any] | None]]:
    yield "today", preset.state.value, preset.state
    sizes = [
        f"{size.name} ({size.vcpus} vCPU, {size.memory_gib} GiB"
        + (f", {size.epc_gib} GiB EPC)" if size.epc_gib else ", EPC unknown)")
        for size in preset.sizes.value
    ]
    yield "sizes", ", ".join(sizes), preset.sizes
    for image in preset.images:
        mark = "" if image.value.supported else "UNSUPPORTED: "
        yield "image", f"{mark}{image.value.name}, Linux {image.value.kernel}", image
    yield "PCCS", preset.pccs.value.url, preset.pccs
    if preset.pccs.value.regions:
        yield "regions", ", ".join(preset.pccs.value.regions), None
    yield "quote provider", preset.quote_provider.value, preset.quote_provider
    yield "devices", ", ".join(preset.devices.value), preset.devices
    kubernetes = preset.kubernetes
    yield "Kubernetes", kubernetes.device_plugin.value, kubernetes.device_plugin
    yield "  EPC", f"{kubernetes.epc_resource.value}, in units of {kubernetes.epc_unit} B", kubernetes.epc_resource
    yield (
        "  device",
        ", ".join(kubernetes.device_resources.value) or "no separate resource",
        kubernetes.device_resources,
    )
    yield "  storage", kubernetes.shared_storage_class.value or "no default class", kubernetes.shared_storage_class
    annotations = ", ".join(f"{key}: {value}" for key, value in kubernetes.internal_load_balancer.value)
    yield "  inside", annotations, kubernetes.internal_load_balancer
    annotations = ", ".join(f"{key}: {value}" for key, value in kubernetes.proxy_protocol.value or ())
    yield "  PROXY", annotations or "no known annotation", kubernetes.proxy_protocol


def _footnotes(fact: Fact[Any]) -> Iterator[str]:
    if fact.note:
        yield fact.note
    if fact.source is None:
        yield "not verified: no source was found"
        return
    dated = f" ({fact.source.dated})" if fact.source.dated else ""
    yield f"{fact.source.url}{dated}" + (", a report" if fact.basis is Basis.REPORT else "")
