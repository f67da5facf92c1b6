"""The formats of Gramine encrypted files. `protected_file` has their layouts."""

from enum import Enum


class FormatVersion(Enum):
    """A format version of encrypted files. Every Gramine reads 1.0. Gramine 1.9 writes 2.0 and reads both."""

    V1_0 = "1.0"
    V2_0 = "2.0"

    @property
    def major(self) -> int:
        """The major version number in the file."""
        return int(self.value.partition(".")[0])
