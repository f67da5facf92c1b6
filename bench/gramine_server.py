"""Gramine's secret provisioning server as a process, to measure it beside the broker.

The program is `secret_prov_minimal/server_dcap` of Gramine's example `ra-tls-secret-prov`. It reads its certificate and
its key from `../ssl`, and its expected measurements from the environment. Its port is compiled in.

Source: Gramine 1.9, ``CI-Examples/ra-tls-secret-prov/secret_prov_minimal/server.c``, ``tools/sgx/ra-tls/ra_tls.h``.
"""

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from sealserve.pki.certificate import CertifiedKey
from sealserve.sgx.report import EnclaveReport

PORT = 4433
_READY_SECONDS = 60.0


@contextlib.contextmanager
def running(program: Path, identity: CertifiedKey, report: EnclaveReport, folder: Path) -> Iterator[int]:
    """Run the server and yield the process's number.

    Args:
        program: The program. It finds its libraries by itself or by `LD_LIBRARY_PATH`.
        identity: The certificate and key that it presents, for a comparison with the same type of key as the broker's.
        report: The enclave that it accepts.
        folder: A new folder for its files and its log.
    """
    if _listens():
        raise SystemExit(f"bench: another process listens on port {PORT}, which Gramine's server needs")
    for name in ("ssl", "server"):
        (folder / name).mkdir(parents=True)
    (folder / "ssl" / "server.crt").write_bytes(identity.chain_pem)
    key = folder / "ssl" / "server.key"
    key.touch(mode=0o600)
    key.write_bytes(identity.key_pem.reveal())
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program.resolve()],
            cwd=folder / "server",
            env=os.environ | _expected(report),
            stdout=output,
            stderr=output,
        )
    try:
        deadline = time.monotonic() + _READY_SECONDS
        while not _listens():
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"bench: Gramine's server did not start:\n{_last_lines(log)}")
            time.sleep(0.1)
        yield process.pid
        if process.poll() is not None:
            raise SystemExit(f"bench: Gramine's server ended with status {process.returncode}:\n{_last_lines(log)}")
    finally:
        process.kill()
        process.wait()


def _expected(report: EnclaveReport) -> dict[str, str]:
    return {
        "RA_TLS_MRENCLAVE": report.mr_enclave.hex(),
        "RA_TLS_MRSIGNER": report.mr_signer.hex(),
        "RA_TLS_ISV_PROD_ID": str(report.isv_prod_id),
        "RA_TLS_ISV_SVN": str(report.isv_svn),
    }


def _listens() -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", PORT), timeout=1):
        return True
    return False


def _last_lines(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-10:])
