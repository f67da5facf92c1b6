import pytest

from sealserve import deployment
from sealserve.deployment.endpoints import endpoints_of

NAME = "grpc.example.com"
TOML = f"""
[model]
name = "m"
[service]
name = "{NAME}"
listen = "LISTEN"
port = 9500
rest_port = 9501
[server]
rest = true
"""


@pytest.mark.parametrize(
    ("listen", "host", "expected"),
    [
        ("127.0.0.1", None, "127.0.0.1"),
        ("::1", None, "[::1]"),
        ("::", None, NAME),  # every address: users on other machines use the name
        ("0.0.0.0", None, NAME),  # noqa: S104
        ("::", "198.51.100.7", "198.51.100.7"),
        ("127.0.0.1", "2001:db8::7", "[2001:db8::7]"),
    ],
)
def test_users_reach_grpc_and_rest_at_the_same_host(listen: str, host: str | None, expected: str) -> None:
    found = endpoints_of(deployment.parse(TOML.replace("LISTEN", listen)), host=host)
    assert (found.server_name, found.grpc, found.rest) == (NAME, f"{expected}:9500", f"{expected}:9501")
    assert found.rest_url == f"https://{NAME}:9501/v1/models"


def test_without_rest_there_is_no_url_of_it() -> None:
    found = endpoints_of(deployment.parse(TOML.replace("LISTEN", "::").replace("rest = true", "rest = false")))
    assert (found.rest, found.rest_url) == (None, None)
