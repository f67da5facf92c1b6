"""The section ``[enclave]`` of ``sealserve.toml``."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from sealserve.deployment.section import Section, at_key
from sealserve.deployment.values import EnclaveSize
from sealserve.terms import CpuFeature


class EnclaveSection(Section):
    """The enclave that the model server runs in."""

    size: EnclaveSize = Field(
        default="auto",
        description='"auto" (see `sealserve enclave manifest --explain`), or a power of two such as "8G"',
    )
    edmm: bool = Field(
        default=False, description="whether the enclave adds memory on demand (EDMM; requires SGX2 and Linux 6.0)"
    )
    required_cpu_features: tuple[CpuFeature, ...] = Field(
        default=(),
        description='"avx", "avx512", "amx": the enclave starts only on a processor with these features (measured); by '
        "default, it uses each of them if the processor has it",
    )
    isv_prod_id: Annotated[int, Field(ge=0, le=0xFFFF)] = Field(
        default=0, description="the product ID in the enclave's SIGSTRUCT (ISVPRODID)"
    )
    isv_svn: Annotated[int, Field(ge=0, le=0xFFFF)] = Field(
        default=0,
        description="the security version in the enclave's SIGSTRUCT (ISVSVN); raise it with each security fix",
    )

    @property
    def size_in_bytes(self) -> int | None:
        """The chosen size in bytes, or None for ``auto``."""
        return None if self.size == "auto" else int(self.size[:-1]) * {"M": 2**20, "G": 2**30}[self.size[-1]]

    @model_validator(mode="after")
    def _power_of_two(self) -> Self:
        size = self.size_in_bytes
        if size is not None and size & (size - 1):
            raise at_key("enclave.size", f"expected a power of two, got {self.size!r}")
        return self
