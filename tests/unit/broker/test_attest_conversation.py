"""Which refusals are final for an enclave, and which refusals it may hope to overcome."""

import pytest

from sealserve.attestation.codes import AttestationCode
from sealserve.broker.appraised import BrokerInternalError
from sealserve.broker.attest_conversation import is_final
from sealserve.broker.codes import BrokerCode
from sealserve.broker.key_wrapper import KeyUnwrapError
from sealserve.errors import ErrorCode, SealserveError
from sealserve.pki.codes import PkiCode
from sealserve.sgx.codes import SgxCode


@pytest.mark.parametrize(
    "code",
    [
        AttestationCode.ATTEST_BINDING,
        AttestationCode.ATTEST_RELEASE,
        AttestationCode.DOCUMENT_JSON,
        AttestationCode.POLICY_MR_ENCLAVE_UNKNOWN,
        BrokerCode.POLICY_RELEASE_REVOKED,
        BrokerCode.POLICY_RELEASE_DRAINING_ENDED,
        SgxCode.QUOTE_DEBUG,
    ],
)
def test_a_verified_fact_about_the_evidence_or_the_release_is_final(code: ErrorCode) -> None:
    assert is_final(code.error("It failed."))


@pytest.mark.parametrize(
    "error",
    [
        BrokerCode.BUSY.error("It failed."),
        BrokerCode.DATABASE.error("It failed."),
        BrokerCode.DATABASE_AUTHENTICATION.error("It failed."),
        BrokerCode.KEYSTORE_UNKNOWN_ISSUING_KEY.error("It failed."),
        BrokerCode.POLICY_APPROVAL_PENDING.error("It failed."),
        BrokerCode.POLICY_LIMIT.error("It failed."),
        BrokerInternalError("It failed."),
        KeyUnwrapError("It failed."),
        PkiCode.CERTIFICATE_EXPIRED.error("It failed."),
        AttestationCode.ATTEST_COLLATERAL.error("It failed."),
        SgxCode.COLLATERAL_EXPIRED.error("It failed."),
    ],
)
def test_a_fault_that_is_not_the_enclaves_is_not_final(error: SealserveError) -> None:
    assert not is_final(error)
