"""What each role of an administrator permits. This table is the only place that decides.

An operation that is not in the table is refused for every role. The roles separate duties: an operator cannot approve
platforms, and an approver cannot change releases or enrollments.
"""

from collections.abc import Mapping
from typing import Final

from sealserve.broker.codes import BrokerCode
from sealserve.pki.administrators import Administrator
from sealserve.terms import AdministratorRole

_READERS: Final = frozenset({AdministratorRole.VIEWER, AdministratorRole.OPERATOR, AdministratorRole.APPROVER})
_OPERATORS: Final = frozenset({AdministratorRole.OPERATOR})
_APPROVERS: Final = frozenset({AdministratorRole.APPROVER})

PERMITTED: Final[Mapping[str, frozenset[AdministratorRole]]] = {
    "get_status": _READERS,
    "list_releases": _READERS,
    "get_release": _READERS,
    "list_platforms": _READERS,
    "read_log": _READERS,
    "get_certificate": _READERS,
    "get_policy": _READERS,
    "try_policy": _READERS,
    "list_token_keys": _READERS,
    "list_collateral": _READERS,
    "allow_release": _OPERATORS,
    "drain_release": _OPERATORS,
    "revoke_release": _OPERATORS,
    "enrol_platform": _OPERATORS,
    "withdraw_platform": _OPERATORS,
    "rotate_token_key": _OPERATORS,
    "refresh_collateral": _OPERATORS,
    "test_notification": _OPERATORS,
    "list_pending": _READERS,
    "approve_platform": _APPROVERS,
    "withdraw_approval": _APPROVERS,
}
"""The roles that may use each operation, by the operation's name in the OpenAPI description."""


def check_permitted(administrator: Administrator, operation: str) -> None:
    """Check that an administrator's role permits an operation.

    Raises:
        VerificationError: `administration.role` if the role does not permit it.
    """
    permitted = PERMITTED.get(operation, frozenset())
    if administrator.role not in permitted:
        roles = " or ".join(sorted(permitted)) or "no role"
        raise BrokerCode.ADMINISTRATION_ROLE.error(
            f"The administrator {administrator.name} may not use the operation {operation}: expected the role {roles}, "
            f"got {administrator.role}.",
            hint="Ask the owner for a certificate with the required role: `sealserve broker admin issue`.",
        )
