"""The hints of errors in evidence and collateral."""

import pytest

from sealserve.errors import VerificationError
from sealserve.sgx.codes import HINTS, SgxCode
from sealserve.sgx.pck import PckChain
from sealserve.sgx.quote import Quote
from sealserve.sgx.report import EnclaveReport
from sealserve.sgx.sigstruct import Sigstruct

FAMILIES = {"certificate-chain", "collateral", "pck", "quote", "report", "sigstruct", "tcb"}


@pytest.mark.parametrize("code", [code for code in SgxCode if code.partition(".")[0] in FAMILIES])
def test_each_error_in_evidence_names_the_next_step(code: SgxCode) -> None:
    hint = code.error("What failed.").hint
    assert hint is not None
    assert hint.endswith(".")
    assert code.error("What failed.", hint="Do this.").hint == "Do this."


def test_each_hint_belongs_to_a_code_or_a_family() -> None:
    assert set(HINTS) <= {*SgxCode, *FAMILIES}


@pytest.mark.parametrize("kind", [Quote, PckChain, EnclaveReport, Sigstruct])
def test_garbage_is_refused_with_a_hint(kind: type[Quote | PckChain | EnclaveReport | Sigstruct]) -> None:
    with pytest.raises(VerificationError) as refused:
        kind.parse(b"garbage")
    assert refused.value.hint
