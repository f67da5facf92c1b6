from pathlib import Path

import pytest
from tests.harness.workspaces import Site, make_site

from sealserve.cli.access import access
from sealserve.pki.certificate import CertificateMissingError


def test_two_way_tls_has_the_users_certificate(site: Site) -> None:
    site.certify()
    reach = access(site.workspace, site.deployment)
    assert reach.target == "127.0.0.1:8500"
    assert reach.server_name == "grpc.tf-serving.service.com"
    assert reach.ca == site.workspace.user.service_ca.read_bytes()
    assert reach.certificate == site.workspace.user.certificate.read_bytes()
    assert reach.key is not None
    assert reach.key.reveal() == site.workspace.user.key.read_bytes()
    assert "PRIVATE" not in repr(reach)


def test_one_way_tls_has_none(tmp_path: Path) -> None:
    site = make_site(tmp_path, service={"tls": "one-way", "port": 8999, "listen": "127.0.0.2"})
    site.certify()
    reach = access(site.workspace, site.deployment)
    assert (reach.target, reach.certificate, reach.key) == ("127.0.0.2:8999", None, None)


def test_no_certificates_yet(site: Site) -> None:
    with pytest.raises(CertificateMissingError, match=r"expected the file .*user/service-ca\.pem") as caught:
        access(site.workspace, site.deployment)
    assert caught.value.code == "certificate.missing"
    assert "certs two-way" in (caught.value.hint or "")


def test_the_users_key_is_missing(site: Site) -> None:
    site.certify()
    site.workspace.user.key.unlink()
    with pytest.raises(CertificateMissingError, match=r"client\.key"):
        access(site.workspace, site.deployment)
