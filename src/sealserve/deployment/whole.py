"""A whole ``sealserve.toml``: its sections, and what holds between them."""

from typing import Self

from pydantic import Field, model_validator

from sealserve.deployment.kubernetes_section import KubernetesSection
from sealserve.deployment.section import Section
from sealserve.deployment.sections import (
    BrokerSection,
    DockerSection,
    EnclaveSection,
    ImagesSection,
    KeystoreSection,
    ModelSection,
    ServerSection,
    ServiceSection,
    TargetSection,
    TcbSection,
)
from sealserve.terms import PlatformKind, TlsMode


class Deployment(Section):
    """A whole ``sealserve.toml``."""

    platform: PlatformKind = Field(default=PlatformKind.SIMULATED, description='"sgx" or "simulated"')
    models: tuple[ModelSection, ...] = Field(alias="model", min_length=1)
    service: ServiceSection = ServiceSection()
    server: ServerSection = ServerSection()
    enclave: EnclaveSection = EnclaveSection()
    broker: BrokerSection = BrokerSection()
    keystore: KeystoreSection = KeystoreSection()
    tcb: TcbSection = TcbSection()
    target: TargetSection = TargetSection()
    images: ImagesSection = ImagesSection()
    docker: DockerSection = DockerSection()
    kubernetes: KubernetesSection = KubernetesSection()

    @property
    def model(self) -> ModelSection:
        """The first model: the one that is meant where none is named."""
        return self.models[0]

    @model_validator(mode="after")
    def _models_differ(self) -> Self:
        for what in ("version", "labels"):
            seen = set()
            for model in self.models:
                for value in (model.version,) if what == "version" else model.labels:
                    if (model.name, value) in seen:
                        raise ValueError(f"model: {model.name!r} has the {what.removesuffix('s')} {value!r} twice")
                    seen.add((model.name, value))
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        if self.service.tls is TlsMode.TWO_WAY and self.service.name == self.service.client_name:
            raise ValueError("service.name and service.client_name must differ")
        return self
