"""Which certificates of a workspace are warned about."""

from datetime import timedelta

import pytest
from tests.harness.workspaces import Site

from sealserve.owner import administrators, users
from sealserve.owner.expiry import certificate_ends
from sealserve.pki import expiry
from sealserve.terms import AdministratorRole


@pytest.fixture
def ready(site: Site) -> Site:
    site.certify()
    return site


def test_named_users_are_warned_about(ready: Site) -> None:
    days = {"ann": 5, "late": 1, "gone": 3, "far": 90}
    made = {
        name: users.add(ready.workspace, ready.deployment, name, now=ready.now, days=count)
        for name, count in days.items()
    }
    users.revoke(ready.workspace, ready.deployment, "gone", now=ready.now)
    ends = certificate_ends(ready.workspace, None)
    assert {name: end for name, end in ends.items() if name.startswith("user ")} == {
        f"user {name}": made[name].not_after for name in ("ann", "late", "far")
    }
    late, ann = expiry.warnings(ends, ready.now + timedelta(days=2))
    assert "The certificate of the user late expired at" in late
    assert "The certificate of the user ann expires in 2 days" in ann
    users.renew(ready.workspace, ready.deployment, "ann", now=ready.now)
    assert len(expiry.warnings(certificate_ends(ready.workspace, None), ready.now + timedelta(days=2))) == 1


def test_a_damaged_register_hides_no_other_end(ready: Site) -> None:
    (ready.workspace.owner.users / "register.json").write_text("{")
    assert {"broker", "user"} < certificate_ends(ready.workspace, None).keys()


def test_a_damaged_certificate_hides_no_other_end(ready: Site) -> None:
    (ready.workspace.owner.broker_tls / "broker.pem").write_text("none")
    ends = certificate_ends(ready.workspace, None)
    assert "broker" not in ends
    assert {"user", "service authority"} < ends.keys()


def test_administrators_and_their_authority_are_warned_about(ready: Site) -> None:
    assert not any("administrator" in name for name in certificate_ends(ready.workspace, None))
    made = {}
    for name, days in (("ann", 5), ("gone", 3), ("far", 90)):
        output = ready.directory / f"{name}.json"
        made[name] = administrators.issue(
            ready.workspace, ready.deployment, name, AdministratorRole.VIEWER, output, now=ready.now, days=days
        )
    administrators.revoke(ready.workspace, "gone", now=ready.now)
    ends = certificate_ends(ready.workspace, None)
    found = {name: end for name, end in ends.items() if name.startswith("administrator ")}
    assert found == {f"administrator {name}": made[name].not_after for name in ("ann", "far")}
    (warning,) = expiry.warnings(ends, ready.now)
    assert "The certificate of the administrator ann expires in" in warning
    assert "`sealserve broker admin issue ann`" in warning
    # A renewal ends the warning, although the former certificate is still valid.
    administrators.issue(
        ready.workspace, ready.deployment, "ann", AdministratorRole.VIEWER, ready.directory / "again.json",
        now=ready.now, days=90,
    )  # fmt: skip
    assert not expiry.warnings(certificate_ends(ready.workspace, None), ready.now)
    late = expiry.warnings(ends, ends["administrators authority"] + timedelta(days=1))
    assert any("administrators authority expired at" in text and "broker admin issue" in text for text in late)
    (ready.workspace.owner.administrators / "register.json").write_text("{")
    assert "broker" in certificate_ends(ready.workspace, None)
