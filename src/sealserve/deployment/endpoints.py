"""The addresses where users reach a deployment."""

from collections.abc import Mapping
from dataclasses import dataclass

from sealserve.addresses import with_port
from sealserve.deployment.whole import Deployment
from sealserve.terms import EVERY_ADDRESS, EVERY_IPV4_ADDRESS


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """The addresses where users reach a deployment, over TLS that ends in the enclave.

    Args:
        server_name: The name in the service's certificate. Clients verify it and send it as the server name (SNI).
            NGINX forwards connections by this name.
        grpc: ``HOST:PORT`` of the gRPC API.
        rest: ``HOST:PORT`` of the REST API, or None if it is off.
    """

    server_name: str
    grpc: str
    rest: str | None

    @property
    def by_protocol(self) -> Mapping[str, str]:
        """``HOST:PORT`` by protocol: ``grpc``, and ``rest`` if it is on."""
        return {"grpc": self.grpc, **({} if self.rest is None else {"rest": self.rest})}

    @property
    def rest_url(self) -> str | None:
        """The URL of the REST API's models, or None if REST is off. Its host is the server name, as TLS requires.

        A client that cannot resolve the server name connects to `rest`: ``curl --connect-to ::HOST:PORT``.
        """
        if self.rest is None:
            return None
        return f"https://{self.server_name}:{self.rest.rpartition(':')[2]}/v1/models"


def endpoints_of(deployment: Deployment, *, host: str | None = None, rest: bool | None = None) -> Endpoints:
    """Return the addresses where users reach a deployment.

    Args:
        deployment: The deployment.
        host: The IP address or DNS name at which users reach NGINX, such as a cloud load balancer. The default is
            the address that NGINX listens on, or the service's name if NGINX listens on every address.
        rest: Whether the served release has a REST API. None uses the setting of the deployment.
    """
    service = deployment.service
    if host is None:
        host = service.name if service.listen in {EVERY_ADDRESS, EVERY_IPV4_ADDRESS} else service.listen
    has_rest = deployment.server.rest if rest is None else rest
    return Endpoints(
        server_name=service.name,
        grpc=with_port(host, service.port),
        rest=with_port(host, service.rest_port) if has_rest else None,
    )
