"""Import of TensorFlow on demand: the base installation does not have it, and the import takes seconds."""

import importlib
import os
from importlib.util import find_spec
from typing import Any

from sealserve.errors import SealserveError
from sealserve.model.codes import ModelCode


def import_tensorflow() -> Any:
    """Return the module ``tensorflow``, with its native messages off unless the environment sets their level.

    Otherwise each machine without a GPU would print "failed call to cuInit". Real problems raise exceptions anyway.

    Raises:
        UnavailableError: `model.tensorflow-missing`: TensorFlow is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        return importlib.import_module("tensorflow")
    except ImportError as error:
        raise _missing(f"TensorFlow cannot be imported: {error}.") from error


def require_tensorflow(purpose: str) -> None:
    """Check that TensorFlow is installed, without importing it. A separate process will import it.

    Args:
        purpose: The beginning of the error message, such as "The model cannot be run".

    Raises:
        UnavailableError: `model.tensorflow-missing`: TensorFlow is not installed.
    """
    if find_spec("tensorflow") is None:
        raise _missing(f"{purpose}: TensorFlow is not installed.")


def _missing(message: str) -> SealserveError:
    return ModelCode.TENSORFLOW_MISSING.error(
        message, hint="Run `pip install 'sealserve[server]'`, or `make setup` in a checkout."
    )
