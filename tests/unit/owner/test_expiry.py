"""Which certificates of a workspace are warned about."""

from datetime import timedelta

import pytest
from tests.harness.workspaces import Site

from sealserve.owner import users
from sealserve.owner.expiry import certificate_ends
from sealserve.pki import expiry


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
