import pytest
from tests.harness.administration import RemoteSite
from tests.harness.errors import raises

from sealserve.broker.administration.operations import OPERATIONS, Operation
from sealserve.broker.administration.roles import PERMITTED, check_permitted
from sealserve.broker.codes import BrokerCode
from sealserve.pki.administrators import Administrator
from sealserve.terms import AdministratorRole

READS = {
    "get_status", "list_releases", "get_release", "list_platforms", "read_log", "list_pending", "get_certificate",
    "get_policy", "try_policy", "list_token_keys", "list_collateral",
}  # fmt: skip
CHANGES = {
    "allow_release", "drain_release", "revoke_release", "enrol_platform", "withdraw_platform", "rotate_token_key",
    "refresh_collateral", "test_notification",
}  # fmt: skip
APPROVALS = {"approve_platform", "withdraw_approval"}
PLATFORM = "0" * 32
BODIES = {
    "allow_release": {"release": "nowhere"},
    "drain_release": {"minutes": 5},
    "enrol_platform": {"platform_id": PLATFORM},
    "withdraw_platform": {"platform_id": PLATFORM},
    "try_policy": {"name": "strict"},
    "approve_platform": {"platform_id": PLATFORM},
    "withdraw_approval": {"platform_id": PLATFORM},
}


def test_every_operation_is_in_the_table_of_roles() -> None:
    assert {operation.name for operation in OPERATIONS} == set(PERMITTED) == READS | CHANGES | APPROVALS
    posted = (CHANGES | APPROVALS) | {"try_policy"}  # the policy file does not fit into a query
    assert all((operation.method == "POST") is (operation.name in posted) for operation in OPERATIONS)


def test_an_operation_outside_of_the_table_is_refused(remote: RemoteSite) -> None:
    for role in AdministratorRole:
        administrator = Administrator(name="alice", role=role, serial=1, not_after=remote.site.now)
        with raises(BrokerCode.ADMINISTRATION_ROLE, match="expected the role no role"):
            check_permitted(administrator, "export_keys")


@pytest.mark.parametrize("role", AdministratorRole)
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_each_role_may_use_exactly_its_operations(
    shared: RemoteSite, operation: Operation, role: AdministratorRole
) -> None:
    changer = AdministratorRole.APPROVER if operation.name in APPROVALS else AdministratorRole.OPERATOR
    permitted = operation.name in READS or role is changer
    before = len(shared.rows())
    with shared.http(role) as http:
        path = operation.path.replace("{release}", "nowhere" if operation.name != "get_release" else "resnet50")
        body = BODIES.get(operation.name)
        answer = http.request(operation.method, path, json=body) if body else http.request(operation.method, path)
    if permitted:
        assert answer.status_code in {200, 400, 404, 409}  # permitted, although this release or platform may not exist
        assert answer.json().get("code") in {
            None, "release.missing", "broker.release-unknown", "broker.notification-settings"
        }  # fmt: skip
    else:
        assert answer.status_code == 403
        assert answer.json()["code"] == "administration.role"
        assert answer.json()["family"] == "verification"
        assert len(shared.rows()) == before


def test_the_role_is_checked_before_the_body_is_read(shared: RemoteSite) -> None:
    with shared.http(AdministratorRole.VIEWER) as http:
        answer = http.post("/v1/platforms/enrol", content=b"x" * 10**6)
    assert answer.json()["code"] == "administration.role"
