"""The complete ``sealserve.toml``: its sections, and the rules that span several sections."""

from typing import Self

from pydantic import Field, model_validator

from sealserve.deployment.replica_limit import ReplicaLimit, replica_limit
from sealserve.deployment.section import Section, at_key
from sealserve.deployment.sections.broker import BrokerSection
from sealserve.deployment.sections.database import DatabaseSection
from sealserve.deployment.sections.docker import DockerSection
from sealserve.deployment.sections.enclave import EnclaveSection
from sealserve.deployment.sections.images import ImagesSection
from sealserve.deployment.sections.keystore import KeystoreSection
from sealserve.deployment.sections.kubernetes import KubernetesSection
from sealserve.deployment.sections.model import ModelSection
from sealserve.deployment.sections.server import ServerSection
from sealserve.deployment.sections.service import ServiceSection
from sealserve.deployment.sections.target import TargetSection
from sealserve.deployment.sections.tcb import TcbSection
from sealserve.terms import PlatformKind, RuntimeKind, TlsMode


class Deployment(Section):
    """A complete ``sealserve.toml``."""

    runtime: RuntimeKind = Field(
        default=RuntimeKind.SIMULATED,
        alias="platform",
        description='"sgx", or "simulated": runs on any machine, and does not protect the model from the host\'s root; '
        '"gramine-direct": the same in Gramine\'s library OS, on the targets local and docker',
    )
    models: tuple[ModelSection, ...] = Field(alias="model", min_length=1)
    service: ServiceSection = ServiceSection()
    server: ServerSection = ServerSection()
    enclave: EnclaveSection = EnclaveSection()
    broker: BrokerSection = BrokerSection()
    database: DatabaseSection = DatabaseSection()
    keystore: KeystoreSection = KeystoreSection()
    tcb: TcbSection = TcbSection()
    target: TargetSection = TargetSection()
    images: ImagesSection = ImagesSection()
    docker: DockerSection = DockerSection()
    kubernetes: KubernetesSection = KubernetesSection()

    @property
    def platform(self) -> PlatformKind:
        """The kind of platform in the evidence of the enclaves."""
        return self.runtime.platform

    @property
    def model(self) -> ModelSection:
        """The first model, which commands use if no model is named."""
        return self.models[0]

    def replica_limit(self, kind: str | None = None) -> ReplicaLimit:
        """Return how many replicas a target can run. The default is the target that the file sets."""
        return replica_limit(kind or self.target.kind, docker_networks=self.docker.networks)

    @model_validator(mode="after")
    def _models_differ(self) -> Self:
        for what in ("version", "labels"):
            seen = set()
            for model in self.models:
                for value in (model.version,) if what == "version" else model.labels:
                    if (model.name, value) in seen:
                        raise at_key("model", f"{model.name!r} has the {what.removesuffix('s')} {value!r} twice")
                    seen.add((model.name, value))
        return self

    @model_validator(mode="after")
    def _replicas_fit(self) -> Self:
        limit = self.replica_limit()
        if self.target.replicas > limit.most:
            found = f"the target {self.target.kind} runs at most {limit.most} replicas ({limit.reason})"
            raise at_key("target.replicas", f"{found}, got {self.target.replicas}")
        return self

    @model_validator(mode="after")
    def _service_ports_differ(self) -> Self:
        if self.server.rest and self.service.rest_port == self.service.port:
            message = f"REST requires its own port, and service.port is also {self.service.port}"
            raise at_key("service.rest_port", message)
        return self

    @model_validator(mode="after")
    def _certificate_fits(self) -> Self:
        names = ("tls_certificate_file", "tls_key_file", "tls_root_file")
        given = [name for name in names if getattr(self.service, name) is not None]
        if given and len(given) < len(names):
            missing = next(name for name in names if name not in given)
            raise at_key(f"service.{given[0]}", f"{missing} is missing: {', '.join(names)} belong together")
        if given and self.server.attested:
            raise at_key(
                "service.tls_certificate_file",
                "with attested serving, the enclave creates the TLS key; a certificate of another CA requires "
                "server.dangerous_owner_tls_key = true",
            )
        return self

    @model_validator(mode="after")
    def _kubelets_pass_the_handshake(self) -> Self:
        if self.kubernetes.grpc_readiness and self.service.tls is TlsMode.TWO_WAY:
            message = 'requires service.tls = "one-way", because a kubelet has no client certificate'
            raise at_key("kubernetes.grpc_readiness", message)
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        if self.service.tls is TlsMode.TWO_WAY and self.service.name == self.service.client_name:
            raise at_key("service.client_name", "service.name and service.client_name must differ")
        return self
