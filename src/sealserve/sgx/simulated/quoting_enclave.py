"""The simulated quoting enclave: it converts reports to quotes.

On hardware, it first checks with a key of the processor that the report comes from an enclave on the same machine. The
simulation accepts any report. Therefore a simulated quote proves nothing about the machine that it comes from.
"""

import dataclasses
import hashlib

from sealserve.sgx.quote import Quote
from sealserve.sgx.report import EnclaveReport
from sealserve.sgx.simulated.authority import raw_public_key, sign_raw
from sealserve.sgx.simulated.documents import qe_report
from sealserve.sgx.simulated.platform import SimulatedPlatform


def quote(platform: SimulatedPlatform, report: EnclaveReport) -> bytes:
    """Return a quote for ``report``, signed by ``platform``.

    All fields are quoted unchanged, including the attributes, except the processor's security versions. The processor
    sets those.

    Source: Intel SGX ECDSA QuoteLibReference DCAP API, appendix A.4: the quoting enclave's report data is SHA-256 of
    attestation key and authentication data, then 32 zero bytes.
    """
    cpu_svn = platform.chain.extension.cpu_svn
    key = raw_public_key(platform.attestation_key)
    binding = hashlib.sha256(key + platform.qe_authentication_data).digest() + bytes(32)
    enclave = qe_report(binding, cpu_svn=cpu_svn)
    unsigned = Quote(
        report=dataclasses.replace(report, cpu_svn=cpu_svn),
        qe_svn=enclave.isv_svn,
        pce_svn=platform.chain.extension.pce_svn,
        user_data=platform.qe_id + bytes(4),
        signature=bytes(64),
        attestation_key=key,
        qe_report=enclave,
        qe_report_signature=sign_raw(platform.pck_key, enclave.to_bytes()),
        qe_authentication_data=platform.qe_authentication_data,
        certification_data=platform.pck_chain_pem + b"\0",
    )
    signature = sign_raw(platform.attestation_key, unsigned.signed_bytes())
    return dataclasses.replace(unsigned, signature=signature).to_bytes()
