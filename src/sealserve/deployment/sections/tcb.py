"""The section ``[tcb]`` of ``sealserve.toml``."""

from typing import Literal, Self

from pydantic import Field, model_validator

from sealserve.deployment.section import Section
from sealserve.deployment.values import FilePath


class TcbSection(Section):
    """The accepted states of a platform's trusted computing base (TCB)."""

    preset: Literal["strict", "cloud-smt"] = Field(
        default="strict",
        description='"strict" (UpToDate), or "cloud-smt" (also hardening needed: INTEL-SA-00289 and INTEL-SA-00615)',
    )
    policy_file: FilePath | None = Field(
        default=None,
        description="a policy file with all rules, instead of a preset; `sealserve broker policy check` validates it",
    )

    @model_validator(mode="after")
    def _one_policy(self) -> Self:
        if self.policy_file is not None and "preset" in self.model_fields_set:
            raise ValueError("preset and policy_file cannot be used together; remove one of them")
        return self
