"""The presets: the appraisal policies that sealserve contains, as policy files in ``policies/``."""

from collections.abc import Mapping
from importlib import resources
from types import MappingProxyType
from typing import Final

from sealserve.attestation import policy_file
from sealserve.attestation.policy_file import PolicyFile
from sealserve.attestation.tcb_policy import TcbPolicy


def _preset(name: str) -> PolicyFile:
    path = resources.files("sealserve.attestation").joinpath("policies", f"{name}.toml")
    return policy_file.parse(path.read_bytes(), file=f"{name}.toml", evidence={}, reserved={})


PRESETS: Final[Mapping[str, PolicyFile]] = MappingProxyType({name: _preset(name) for name in ("strict", "cloud-smt")})
"""The presets by name, for ``tcb.preset`` in ``sealserve.toml`` and for ``sealserve doctor``."""

STRICT: Final[TcbPolicy] = PRESETS["strict"].rules.tcb
"""Accepts only up-to-date platforms without any advisory."""

CLOUD_SMT: Final[TcbPolicy] = PRESETS["cloud-smt"].rules.tcb
"""Accepts cloud machines with hyper-threading: hardening needed, but only for the listed advisories."""

RESERVED: Final[Mapping[str, str]] = MappingProxyType({name: file.rules.to_json() for name, file in PRESETS.items()})
"""The names of the presets and their rules. A custom policy with such a name must have these rules."""
