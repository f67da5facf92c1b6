"""The report of an enclave, and its reference values, for tests of the broker."""

from sealserve.sgx.reference_values import ReferenceValues
from sealserve.sgx.report import Attributes, EnclaveReport, MrEnclave, MrSigner

REPORT = EnclaveReport(
    attributes=Attributes(flags=0x5, xfrm=0xE7),
    mr_enclave=MrEnclave(b"\x01" * 32),
    mr_signer=MrSigner(b"\x02" * 32),
    isv_prod_id=1,
    isv_svn=2,
    report_data=bytes(64),
)
REFERENCE = ReferenceValues(mr_enclave=REPORT.mr_enclave, mr_signer=REPORT.mr_signer, isv_prod_id=1, isv_svn=2)
