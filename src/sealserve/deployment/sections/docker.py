"""The section ``[docker]`` of ``sealserve.toml``."""

from ipaddress import IPv4Network
from typing import Final

from pydantic import Field, field_validator

from sealserve.deployment.section import Section
from sealserve.deployment.values import IPv4Subnet

_NETWORK_PREFIX: Final = 29  # 8 addresses: the network's, the gateway's, 3 in use, the broadcast address
_SMALLEST_SUBNET: Final = 27  # 4 networks: one for a replica, two shared, and one for a roll-out


class DockerSection(Section):
    """The Docker target."""

    subnet: IPv4Subnet = Field(
        default=IPv4Network("10.213.0.0/22"),
        description="subnet of the deployment's networks, eight addresses per replica; change it if it is in use",
    )

    @field_validator("subnet")
    @classmethod
    def _large_enough(cls, subnet: IPv4Network) -> IPv4Network:
        if subnet.prefixlen > _SMALLEST_SUBNET:
            raise ValueError(
                f"expected at least {2 ** (32 - _SMALLEST_SUBNET)} addresses: /{_SMALLEST_SUBNET} or larger"
            )
        return subnet

    @property
    def networks(self) -> int:
        """The number of networks that the subnet has room for."""
        return 1 << (_NETWORK_PREFIX - self.subnet.prefixlen)

    def network(self, number: int) -> IPv4Network:
        """Return one of the networks, counted from 0."""
        address = self.subnet.network_address + number * 2 ** (32 - _NETWORK_PREFIX)
        return IPv4Network((address, _NETWORK_PREFIX))
