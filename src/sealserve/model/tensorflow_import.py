"""TensorFlow, imported only where it is needed: the base install has none, and importing it takes seconds."""

import importlib
import os
from typing import Any

from sealserve.model.codes import ModelCode


def import_tensorflow() -> Any:
    """Return the module ``tensorflow``, its native messages off unless the environment says otherwise.

    Each machine without a GPU would get "failed call to cuInit"; what goes wrong in earnest is an exception anyway.

    Raises:
        UnavailableError: `model.tensorflow-missing`: It is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        return importlib.import_module("tensorflow")
    except ImportError as error:
        raise ModelCode.TENSORFLOW_MISSING.error(
            f"TensorFlow cannot be imported ({error}).",
            hint="Run `pip install 'sealserve[server]'`, or `make setup` in a checkout.",
        ) from error
