"""Import of TensorFlow on demand: the base installation does not have it, and the import takes seconds."""

import importlib
import os
from typing import Any

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
        raise ModelCode.TENSORFLOW_MISSING.error(
            f"TensorFlow cannot be imported: {error}.",
            hint="Run `make setup`, or `pip install '.[server]'`, in a checkout of sealserve.",
        ) from error
