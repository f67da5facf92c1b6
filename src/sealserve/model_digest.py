"""The digest of one version of a model, which the owner states and the model server puts into receipts."""

import hashlib
from collections.abc import Mapping


def model_digest(files: Mapping[str, tuple[int, str]]) -> str:
    """Return the digest of a model: SHA-256 of one line for each file, as hexadecimal digits.

    A line is the SHA-256 of the content (64 hexadecimal digits), a space, the size in bytes, a space, the path with
    slashes, and a new line. The lines are sorted by the UTF-8 bytes of their paths.

    Args:
        files: Size and SHA-256 of the content, by the path relative to the folder of the model's version.

    Raises:
        ValueError: A path contains a new line, which would make the lines ambiguous.
    """
    if any("\n" in path for path in files):
        raise ValueError("the path of a file contains a new line")
    rows = sorted((path.encode(), size, sha256.encode()) for path, (size, sha256) in files.items())
    return hashlib.sha256(b"".join(b"%b %d %b\n" % (sha256, size, path) for path, size, sha256 in rows)).hexdigest()
