"""The section ``[target]`` of ``sealserve.toml``."""

from typing import Annotated

from pydantic import Field

from sealserve.deployment.section import Section
from sealserve.terms import Cloud, TargetKind


class TargetSection(Section):
    """The target: where the deployment runs."""

    kind: TargetKind = Field(
        default=TargetKind.LOCAL, description='"local" (processes on this machine), "docker" or "kubernetes"'
    )
    replicas: Annotated[int, Field(ge=1)] = Field(default=2, description="number of enclaves that serve")
    cloud: Cloud | None = Field(
        default=None, description="the cloud that the host runs in; `sealserve cloud list` prints the names"
    )
