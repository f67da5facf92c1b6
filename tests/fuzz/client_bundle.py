"""Client bundles from an untrusted sender: each is parsed completely, or rejected with one printable error."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime

from sealserve.client.bundle import BundledModel, ClientBundle
from sealserve.client.predict import Signature, TensorSpec
from sealserve.errors import SealserveError
from sealserve.pki.authority import Authority, AuthorityKind

_NOW = datetime(2026, 11, 23, tzinfo=UTC)
_SERVICE = Authority.create(AuthorityKind.SERVICE, names=["service.com"], simulated=True, now=_NOW)
_USERS = Authority.create(AuthorityKind.USERS, names=["client.com"], simulated=True, now=_NOW)


def seeds() -> Iterator[bytes]:
    """Yield bundles with one-way and two-way TLS."""
    signature = Signature(
        method="m", inputs={"x": TensorSpec("float32", (None, 3))}, outputs={"y": TensorSpec("string", None)}
    )
    model = BundledModel(name="toy", version=1, labels=("stable",), signatures={"s": signature})
    pair = _USERS.issue_client("ann.client.com", now=_NOW)
    one_way = ClientBundle(user="a", grpc="h:1", server_name="service.com", ca=_SERVICE.certificate_pem)
    yield one_way.render().reveal()
    two_way = ClientBundle(
        user="ann",
        grpc="[::1]:8500",
        rest="h:2",
        server_name="service.com",
        ca=_SERVICE.certificate_pem,
        certificate=pair.chain_pem,
        key=pair.key_pem,
        models=(model,),
    )
    yield json.dumps(json.loads(two_way.render().reveal())).encode()


def fuzz(data: bytes) -> None:
    """Parse ``data`` as a client bundle."""
    try:
        bundle = ClientBundle.parse(data)
    except SealserveError as error:
        message = error.message
    else:
        message = ""
        assert ClientBundle.parse(bundle.render().reveal()) == bundle
    assert message.isprintable()
    assert "PRIVATE KEY" not in message
