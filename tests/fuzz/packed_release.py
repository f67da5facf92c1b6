"""A packed release from an untrusted sender: arbitrary bytes in place of a tar archive.

For any input, either the unpacked release is one that its owner signed, or a typed error states the reason. After an
error, the folder of releases contains no leftovers.
"""

import functools
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sealserve.errors import VerificationError
from sealserve.sealing.archive import pack, unpack
from sealserve.sealing.release import ReleaseContents, Servable, build_release
from sealserve.secret import SecretBytes

SIGNER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@functools.cache
def _packed() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in ("model", "releases"):
            (root / name).mkdir()
        (root / "model" / "saved_model.pb").write_bytes(b"graph")
        contents = ReleaseContents(
            name="m",
            servables=[Servable(name="m", version=1, folder=root / "model")],
            simulated=True,
            created=datetime(2026, 11, 25, tzinfo=UTC),
        )
        key = SecretBytes(bytes(16))
        release = build_release(contents, root / "releases", key=key, key_id="0" * 32, signer=SIGNER)
        (release.folder / "enclave").mkdir()
        (release.folder / "enclave" / "m.sig").write_bytes(b"signature")
        pack(release.folder, root / "m.tar")
        return (root / "m.tar").read_bytes()


def seeds() -> Iterator[bytes]:
    """Yield a packed release, and truncated parts of it."""
    packed = _packed()
    yield from (packed, packed[:-1], packed[:5000], packed[512:], packed + b"more", bytes(2048))


def fuzz(data: bytes) -> None:
    """Unpack ``data``."""
    with tempfile.TemporaryDirectory() as folder:
        tar, releases = Path(folder, "it.tar"), Path(folder, "releases")
        releases.mkdir()
        tar.write_bytes(data)
        try:
            unpacked = unpack(tar, releases, owner_key=SIGNER.public_key())
        except VerificationError as error:
            assert error.code.startswith(("archive.", "index.", "release."))  # noqa: PT017  # a fuzz target, not a test
            assert list(releases.iterdir()) == []
            return
        assert list(releases.iterdir()) == [unpacked.folder]
        assert unpacked.index.name == "m"
