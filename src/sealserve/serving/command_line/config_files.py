"""Reader of configuration files in protobuf text format, in TensorFlow Serving's format.

Source: tensorflow/serving, ``util/proto_util.h`` (``ParseProtoTextFile``).
"""

from pathlib import Path
from typing import TypeVar

from google.protobuf import text_format
from google.protobuf.message import Message

from sealserve.regular_file import InputFileError, InputFileUnreadableError, read_regular
from sealserve.serving.codes import ServingCode
from sealserve.serving.file_list import UNREADABLE_HINT, FileList
from sealserve.serving.log import DescribesModelError

_M = TypeVar("_M", bound=Message)


class ConfigFileSyntaxError(DescribesModelError):
    """A configuration file is not a valid message of its type in protobuf text format."""

    code = "config-file.syntax"


def read(path: Path, kind: type[_M], files: FileList | None = None) -> _M:
    """Read the message of type ``kind`` from the file ``path``.

    Args:
        path: The file.
        kind: The message's type.
        files: The list of the files that may be loaded. Below its folder, the file must be listed and match.

    Raises:
        InputError: `config-file.missing`: The file does not exist or cannot be read.
        ConfigFileSyntaxError: The file is not such a message.
        VerificationError: The file differs from the listed one, or is not listed.
    """
    name: str = kind.DESCRIPTOR.full_name.replace("sealserve.serving", "tensorflow.serving")
    try:
        if files is not None and files.relative(path) is not None:
            text = files.read_file(path).decode()
        else:
            text = read_regular(path).decode()
        return text_format.Parse(text, kind())
    except InputFileError as error:
        hint = UNREADABLE_HINT if isinstance(error, InputFileUnreadableError) else None
        raise ServingCode.CONFIG_FILE_MISSING.error(
            f"The configuration file {path} cannot be read: {error.reason}.", hint=hint
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigFileSyntaxError(f"Error parsing text-format {name}: {path}: it is not UTF-8 text.") from error
    except text_format.ParseError as error:
        failed = f"Error parsing text-format {name}: {path}"
        listed = files is not None and files.relative(path) is not None  # a sealed file must not be quoted in the log
        raise ConfigFileSyntaxError(f"{failed}: {error}", log_message=f"{failed}." if listed else None) from error
