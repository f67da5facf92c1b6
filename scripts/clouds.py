"""Write docs/reference/clouds.md from the cloud presets, or check that the committed page is up to date."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scripts.generated_files import write_or_check

from sealserve.clouds.catalog import PRESETS
from sealserve.clouds.facts import PORTS, Basis, Fact, Preset

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "clouds.md"
HEAD = """\
# Clouds with SGX machines

<!-- Written by scripts/clouds.py from src/sealserve/clouds: change the presets there, then run `make clouds`. -->

This page lists the facts that `sealserve cloud show` and `sealserve init --preset` use. Each fact has its source and
the date of the source. *Report* means that a third party published the fact and this project has not checked it. *Not
verified* means that no source was found.

The project had no access to any of these machines. [Compatibility](compatibility.md) lists what was run where.

Open these ports in each cloud:

| Port | From where to where |
|---|---|
"""


def render() -> str:
    """Return the text of the page."""
    ports = "".join(f"| {port} | {purpose} |\n" for port, purpose in PORTS)
    return HEAD + ports + "".join(_section(preset) for preset in PRESETS.values())


def _section(preset: Preset) -> str:
    rows = "".join(f"| {label} | {value} | {_basis(fact)} |\n" for label, value, fact in _rows(preset))
    sizes = "".join(
        f"| `{size.name}` | {size.vcpus} | {size.memory_gib} | {size.epc_gib or 'unknown'} |\n"
        for size in preset.sizes.value
    )
    return (
        f"\n## `{preset.cloud}`\n\n{preset.title}. Guide: [set up {preset.cloud}](../how-to/{preset.cloud}.md).\n\n"
        f"**Availability.** {preset.state.value} ({_basis(preset.state)})\n\n"
        f"| Fact | Value | Source |\n|---|---|---|\n{rows}\n"
        f"Sizes ({_basis(preset.sizes)}{'; ' + preset.sizes.note if preset.sizes.note else ''}):\n\n"
        f"| Size | vCPU | Memory, GiB | EPC, GiB |\n|---|---|---|---|\n{sizes}"
    )


def _rows(preset: Preset) -> Iterator[tuple[str, str, Fact[Any]]]:
    for image in preset.images:
        mark = "" if image.value.supported else "**unsupported**: "
        yield "image", f"{mark}{image.value.name}, Linux {image.value.kernel}{_note(image)}", image
    service = preset.pccs.value
    regions = f"; regions: {', '.join(service.regions)}" if service.regions else ""
    yield "PCCS", f"`{service.url}`{regions}{_note(preset.pccs)}", preset.pccs
    for label, fact in (("quote provider", preset.quote_provider), ("devices", preset.devices)):
        yield label, f"{_text(fact.value)}{_note(fact)}", fact
    kubernetes = preset.kubernetes
    yield (
        "Kubernetes: plugin",
        f"{kubernetes.device_plugin.value}{_note(kubernetes.device_plugin)}",
        kubernetes.device_plugin,
    )
    unit = f", in units of {kubernetes.epc_unit} B"
    yield (
        "Kubernetes: EPC",
        f"`{kubernetes.epc_resource.value}`{unit}{_note(kubernetes.epc_resource)}",
        kubernetes.epc_resource,
    )
    names: tuple[tuple[str, Fact[Any]], ...] = (
        ("Kubernetes: device", kubernetes.device_resources),
        ("Kubernetes: shared storage class", kubernetes.shared_storage_class),
        ("Kubernetes: internal load balancer", kubernetes.internal_load_balancer),
        ("Kubernetes: PROXY protocol", kubernetes.proxy_protocol),
    )
    for label, fact in names:
        yield label, f"{_text(fact.value)}{_note(fact)}", fact


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return (
            ", ".join(_text(item) if isinstance(item, str) else f"`{item[0]}: {item[1]}`" for item in value) or "none"
        )
    return f"`{value}`" if value else "none"


def _note(fact: Fact[Any]) -> str:
    return f"; {fact.note}" if fact.note else ""


def _basis(fact: Fact[Any]) -> str:
    if fact.source is None:
        return "*not verified*"
    dated = fact.source.dated or "undated"
    return f"[{dated}]({fact.source.url})" + (", *report*" if fact.basis is Basis.REPORT else "")


def main() -> None:
    """Write the page, or compare it with ``--check``."""
    write_or_check({PAGE: render}, description=__doc__, target="clouds")


if __name__ == "__main__":
    main()
