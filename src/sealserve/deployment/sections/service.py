"""The section ``[service]`` of ``sealserve.toml``."""

from pydantic import Field

from sealserve.addresses import with_port
from sealserve.deployment.section import Section
from sealserve.deployment.values import FilePath, IpAddress, Port
from sealserve.names import DnsName
from sealserve.tcp_ports import REST_PORT, SERVICE_PORT
from sealserve.terms import TlsMode


class ServiceSection(Section):
    """The address, names and TLS mode of the service for users."""

    name: DnsName = Field(
        default="grpc.tf-serving.service.com",
        description="the DNS name in the service's certificate, which clients verify",
    )
    client_name: DnsName = Field(
        default="client.tf-serving.service.com", description="the name in the client certificate (two-way TLS)"
    )
    tls: TlsMode = Field(
        default=TlsMode.TWO_WAY, description='"two-way" (users need a client certificate) or "one-way"'
    )
    port: Port = Field(default=SERVICE_PORT, description="the port where NGINX accepts gRPC over TLS")
    rest_port: Port = Field(
        default=REST_PORT, description="the port where NGINX accepts REST over TLS, if server.rest is true"
    )
    listen: IpAddress = Field(
        default="127.0.0.1", description='the address NGINX listens on; "::" is every address, IPv4 and IPv6'
    )
    tls_certificate_file: FilePath | None = Field(
        default=None,
        description="the service's certificate from another CA, such as a public CA, with all intermediate "
        "certificates (PEM); only with a TLS key of the owner's",
    )
    tls_key_file: FilePath | None = Field(
        default=None, description="the private key of `tls_certificate_file` (PEM, mode 0600)"
    )
    tls_root_file: FilePath | None = Field(
        default=None, description="the root certificates of this CA, which users trust (PEM)"
    )

    @property
    def endpoint(self) -> str:
        """Address and port where NGINX listens for gRPC, with brackets around an IPv6 address."""
        return with_port(self.listen, self.port)

    @property
    def rest_endpoint(self) -> str:
        """Address and port where NGINX listens for REST, if server.rest is true."""
        return with_port(self.listen, self.rest_port)
