"""Attacks by a malicious host that has extracted a platform key, for tests and ``sealserve demo --attack``.

The attack is real: dcap-qvl 0.7.0 alone accepts the forgery, because the platform's PCK certificate has the same root
as the vendor's signer. `sealserve.sgx.parsed_collateral.check_signers` rejects it.
"""

import dataclasses
import json

from sealserve.attestation.claims import TcbStatus
from sealserve.sgx.collateral import Collateral
from sealserve.sgx.simulated import documents
from sealserve.sgx.simulated.authority import sign_raw
from sealserve.sgx.simulated.platform import SimulatedPlatform
from sealserve.sgx.simulated.vendor import SignedDocument


def forge_tcb_info(tcb_info: str, stolen: SimulatedPlatform) -> SignedDocument:
    """Return TCB info that rates every platform as UpToDate, signed with a platform's PCK key.

    Serve it together with `forged_chain`.
    """
    document = json.loads(tcb_info)
    for level in document["tcbLevels"]:
        level["tcbStatus"] = TcbStatus.UP_TO_DATE.value
        level.pop("advisoryIDs", None)
    text = documents.encode(document)
    return SignedDocument(text=text, signature=sign_raw(stolen.pck_key, text.encode()))


def forged_chain(stolen: SimulatedPlatform) -> str:
    """Return the issuer chain of the forgery: the platform's own chain, which ends at the trusted root."""
    return stolen.pck_chain_pem.decode()


def forged_collateral(collateral: Collateral, stolen: SimulatedPlatform) -> Collateral:
    """Return a copy of the collateral with forged TCB info."""
    forged = forge_tcb_info(collateral.tcb_info, stolen)
    return dataclasses.replace(
        collateral,
        tcb_info=forged.text,
        tcb_info_signature=forged.signature,
        tcb_info_issuer_chain=forged_chain(stolen),
    )
