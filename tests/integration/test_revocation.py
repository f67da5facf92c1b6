"""A revoked user at the real model server, with the TLS settings that a release of the workspace would have."""

from pathlib import Path

import numpy as np
import pytest
from tests.harness.model_server import SERVICE, Start
from tests.harness.workspaces import make_site

from sealserve.client import Client, ClientBundle, RequestRefusedError
from sealserve.owner import certificates, users

pytestmark = [pytest.mark.integration, pytest.mark.tensorflow]


def test_a_revoked_user_is_refused_and_others_are_not(start: Start, model: Path, tmp_path: Path) -> None:
    site = make_site(tmp_path / "site")
    site.certify()
    for name in ("ann", "bob"):
        users.add(site.workspace, site.deployment, name, now=site.now)
    pairs = {name: users.credentials_of(site.workspace, name, now=site.now) for name in ("ann", "bob", "default")}
    users.revoke(site.workspace, site.deployment, "ann", now=site.now)
    settings = certificates.fresh_ssl_config(site.workspace, site.deployment, now=site.now)
    (tmp_path / "ssl.cfg").write_bytes(settings.render().reveal())
    server = start(f"--model_base_path={model}", f"--ssl_config_file={tmp_path}/ssl.cfg")
    address = f"127.0.0.1:{server.port()}"

    def call(name: str) -> list[float]:
        bundle = ClientBundle(
            user=name,
            grpc=address,
            server_name=SERVICE,
            ca=site.workspace.user.service_ca.read_bytes(),
            certificate=pairs[name].chain_pem,
            key=pairs[name].key_pem,
        )
        with Client(bundle) as client:
            answer: list[float] = client.predict({"x": np.array([1.0], np.float32)}, model="m")["y"].tolist()
            return answer

    assert call("bob") == call("default") == [2.5]
    with pytest.raises(
        RequestRefusedError, match=r"\(UNAUTHENTICATED\): The client certificate is revoked\."
    ) as caught:
        call("ann")
    assert "--bundle" in (caught.value.hint or "")
    assert call("bob") == [2.5]
