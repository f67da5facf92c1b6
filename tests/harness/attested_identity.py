"""An identity of an attested server on a simulated platform, and users who verify its evidence and receipts.

The evidence is `scripts.attested_example.Example`'s, whose documents have fixed times. The certificate is valid now.
"""

import socket
import ssl
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Final

from scripts.attested_example import FIRST_TIME, NOW, Example
from tests.harness.certificates import NAME, Signer, text

from sealserve.attested.evidence_conversation import EvidenceRequest
from sealserve.attested.receipt_signer import FindSigner
from sealserve.attested.service_identity import ServiceIdentity
from sealserve.attested.verification import VerifiedService

ROOT: Final = Path(__file__).resolve().parents[2]
PROGRAM: Final = f"""
import signal, sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from tests.harness.attested_identity import AttestedService
from sealserve.attester.model_check import check_model
from sealserve.serving import log, program
from sealserve.serving.command_line import options
from sealserve.serving.runtime.ed25519 import find_signer
log.configure()
folder, *flags = sys.argv[1:]
service = AttestedService(Path(folder), find_signer=find_signer)
signal.signal(signal.SIGUSR1, lambda *_: service.renew())
signal.signal(signal.SIGUSR2, lambda *_: service.identity.renewal_failed())
sys.exit(program.serve(options.parse(flags, attested=True), service.identity, check_model))
"""
"""An attested server. Its first argument is an empty folder, which gets the file ``ca.pem``.
SIGUSR1 renews its certificate, and SIGUSR2 reports a failed renewal.
"""


class AttestedService:
    """An identity, its issuing CA, and what its users need.

    Args:
        folder: A folder for the state of the simulated vendor. The file ``ca.pem`` in it is the issuing CA.
        example: Another source of evidence.
        find_signer: See `ServiceIdentity`.
    """

    def __init__(self, folder: Path, example: Example | None = None, *, find_signer: FindSigner | None = None) -> None:
        self.example = example or Example(folder / "vendor")
        self.authority = Signer.make("issuing CA")
        self.ca_pem = text(self.authority.certificate())
        (folder / "ca.pem").write_bytes(self.ca_pem)
        self.identity = ServiceIdentity(
            tls_key=self.example.tls_key,
            certificate_chain=self.new_chain(),
            service=self.example.service(),
            find_signer=find_signer,
        )

    def new_chain(self, *, days: tuple[float, float] = (-1, 30)) -> bytes:
        """Return a new certificate for the TLS key."""
        return text(self.authority.leaf(self.example.tls_key, days=days))

    def renew(self) -> None:
        """Renew the certificate."""
        self.identity.renew(certificate_chain=self.new_chain(), service=self.example.service())

    @cached_property
    def context(self) -> ssl.SSLContext:
        """The TLS settings of a user."""
        return ssl.create_default_context(cadata=self.ca_pem.decode())


def verified(example: Example, request: EvidenceRequest, content: bytes, certificate: bytes) -> VerifiedService:
    """Return the result of the six steps, at the time of the example's documents."""
    presented = request.receive(content, certificate=certificate)
    return presented.verify(example.policy, now=NOW + timedelta(seconds=FIRST_TIME))


def server_certificate(port: int, ca_pem: bytes) -> bytes:
    """Return the certificate of a new TLS connection, DER."""

    context = ssl.create_default_context(cadata=ca_pem.decode())
    with (
        socket.create_connection(("127.0.0.1", port), 60) as plain,
        context.wrap_socket(plain, server_hostname=NAME) as connection,
    ):
        certificate = connection.getpeercert(binary_form=True)
    assert certificate is not None
    return certificate
