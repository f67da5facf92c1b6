"""TensorFlow, imported only where it is needed: the base install has none, and importing it takes seconds."""

import importlib
import os
from typing import Any

from sealserve.errors import UnavailableError


class TensorFlowMissingError(UnavailableError):
    """TensorFlow is not installed."""

    code = "model.tensorflow-missing"


def import_tensorflow() -> Any:
    """Return the module ``tensorflow``, its native messages off unless the environment says otherwise.

    Each machine without a GPU would get "failed call to cuInit"; what goes wrong in earnest is an exception anyway.

    Raises:
        TensorFlowMissingError: It is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        return importlib.import_module("tensorflow")
    except ImportError as error:
        raise TensorFlowMissingError(
            f"TensorFlow cannot be imported ({error}).",
            hint="Run `make setup`, or `pip install '.[server]'`, in a checkout of sealserve.",
        ) from error
