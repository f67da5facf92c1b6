import json
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from tests.harness.errors import raises
from tests.harness.workspaces import Site

from sealserve.atomic_file import OutputExistsError
from sealserve.broker.administration.administrator_file import AdministratorFile
from sealserve.owner import administrators
from sealserve.owner.administrators import IssuedCertificate
from sealserve.owner.codes import OwnerCode
from sealserve.owner.identity import IdentityLostError
from sealserve.pki.administrators import AdministratorTrust
from sealserve.pki.authority import AuthorityMissingError
from sealserve.pki.codes import PkiCode
from sealserve.terms import AdministratorRole


def issue(site: Site, name: str = "alice", role: AdministratorRole = AdministratorRole.VIEWER) -> IssuedCertificate:
    output = site.directory / f"{name}-{len(administrators.every(site.workspace))}.json"
    return administrators.issue(site.workspace, site.deployment, name, role, output, now=site.now, days=30)


def revoked_serials(site: Site) -> set[int]:
    return {item.serial_number for item in AdministratorTrust.read(site.workspace.owner.administrators).revoked}


def test_the_first_certificate_creates_the_authority(ready: Site) -> None:
    with raises(OwnerCode.ADMINISTRATOR_AUTHORITY, match="broker admin issue"):
        administrators.require_trust(ready.workspace)
    issued = issue(ready)
    administrators.require_trust(ready.workspace)
    assert (issued.name, issued.role, issued.revoked) == ("alice", "viewer", None)
    written = AdministratorFile.read(ready.directory / "alice-0.json")
    assert (written.name, written.server_name) == ("alice", ready.deployment.broker.name)
    public = sorted(path.name for path in ready.workspace.owner.administrators.iterdir())
    assert public == ["ca.pem", "register.json", "revoked.pem"]
    for path in ready.workspace.owner.administrators.iterdir():
        assert b"PRIVATE" not in path.read_bytes()
    assert [path.name for path in ready.workspace.owner.administrators_authority.glob("*.key")] == ["ca.key"]


def test_revoking_ends_all_certificates_of_a_name_and_of_no_other(ready: Site) -> None:
    first, second, other = issue(ready), issue(ready, role=AdministratorRole.OPERATOR), issue(ready, "bob")
    assert revoked_serials(ready) == set()
    revoked = administrators.revoke(ready.workspace, "alice", now=ready.now)
    assert [item.serial for item in revoked] == [first.serial, second.serial]
    assert revoked_serials(ready) == {int(first.serial, 16), int(second.serial, 16)}
    with raises(OwnerCode.ADMINISTRATOR_UNKNOWN, match="active administrators are: bob"):
        administrators.revoke(ready.workspace, "alice", now=ready.now)
    again = issue(ready)  # a new certificate for the same name is possible, and the former ones stay revoked
    assert revoked_serials(ready) == {int(first.serial, 16), int(second.serial, 16)}
    found = [(item.serial, item.revoked is None) for item in administrators.every(ready.workspace)]
    assert found == [(first.serial, False), (second.serial, False), (other.serial, True), (again.serial, True)]


def test_an_interrupted_revocation_can_be_repeated(ready: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    issued = issue(ready)

    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(administrators, "write_file", fail)
        with pytest.raises(KeyboardInterrupt):
            administrators.revoke(ready.workspace, "alice", now=ready.now)
    assert revoked_serials(ready) == {int(issued.serial, 16)}
    assert len(administrators.revoke(ready.workspace, "alice", now=ready.now)) == 1
    assert revoked_serials(ready) == {int(issued.serial, 16)}


def test_nothing_is_issued_for_invalid_input(ready: Site) -> None:
    output = ready.directory / "out.json"
    arguments = (ready.workspace, ready.deployment)
    with raises(PkiCode.ADMINISTRATOR_NAME, match="got 'Alice'"):
        administrators.issue(*arguments, "Alice", AdministratorRole.VIEWER, output, now=ready.now, days=1)
    output.write_text("kept")
    with pytest.raises(OutputExistsError):
        administrators.issue(*arguments, "alice", AdministratorRole.VIEWER, output, now=ready.now, days=1)
    assert output.read_text() == "kept"
    assert administrators.every(ready.workspace) == []


def test_a_workspace_without_certificates_cannot_issue(site: Site) -> None:
    with pytest.raises(AuthorityMissingError):
        issue(site)


def test_a_lost_authority_is_not_replaced(ready: Site) -> None:
    issue(ready)
    shutil.rmtree(ready.workspace.owner.administrators_authority)
    with pytest.raises(IdentityLostError, match="administrators' authority is missing"):
        issue(ready)


def test_a_damaged_register_is_an_error(ready: Site) -> None:
    issue(ready)
    path = ready.workspace.owner.administrators / "register.json"
    document = json.loads(path.read_text())
    for content in ("{", json.dumps(document | {"version": 2}), json.dumps(document | {"extra": 1})):
        path.write_text(content)
        with raises(OwnerCode.ADMINISTRATOR_REGISTER_DAMAGED, match="Restore the file"):
            administrators.every(ready.workspace)


def test_a_certificate_ends_with_its_validity(ready: Site, tmp_path: Path) -> None:
    issued = administrators.issue(
        ready.workspace, ready.deployment, "alice", AdministratorRole.VIEWER, tmp_path / "a.json", now=ready.now, days=2
    )
    assert timedelta(days=1) < issued.not_after - ready.now <= timedelta(days=2)
