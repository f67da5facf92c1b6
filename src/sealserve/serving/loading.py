"""From a folder to a servable: find the version, check its files, load it, bind its signatures."""

import logging
import time

from sealserve.errors import InputError
from sealserve.serving import versions
from sealserve.serving.file_list import FileList
from sealserve.serving.libtensorflow import TensorFlowError, library
from sealserve.serving.options import ServerOptions
from sealserve.serving.servables import Servable
from sealserve.serving.session import Session
from sealserve.serving.signature import Signature

logger = logging.getLogger(__name__)


class LoadFailedError(InputError):
    """TensorFlow does not load the model."""

    code = "servable.load-failed"


def load(options: ServerOptions, files: FileList | None) -> Servable:
    """Return the latest version of the model that ``options`` name, loaded.

    Steps: 1 find the version · 2 check its files against the list · 3 load it · 4 bind its signatures.

    Raises:
        InputError: There is no such model, or TensorFlow does not load it.
        VerificationError: Its files are not those of the list.
        UnavailableError: TensorFlow is not installed, or not usable.
    """
    found = versions.available(options.model_base_path, files)  # 1
    version = versions.latest(found)
    folder = found[version]
    if files is not None:  # 2
        started = time.monotonic()
        files.check_folder(folder)
        logger.info("checked the files of %s against the file list in %.2f s", folder, time.monotonic() - started)
    tensorflow = library()
    started = time.monotonic()
    try:  # 3
        session = Session.load(
            tensorflow,
            folder,
            tags=options.saved_model_tags,
            intra_op_threads=options.intra_op_threads,
            inter_op_threads=options.inter_op_threads,
        )
    except TensorFlowError as error:
        raise LoadFailedError(
            f"{folder} was not loaded: {error.status.name}: {error.text.rstrip('.')}.",
            hint="It should hold a SavedModel (saved_model.pb, variables/) with the tags of --saved_model_tags.",
        ) from error
    bound = {name: Signature.bind(name, definition, session) for name, definition in session.signatures.items()}  # 4
    signatures = {name: signature for name, signature in sorted(bound.items()) if signature is not None}
    logger.info(
        "loaded %s version %d (TensorFlow %s) in %.2f s; signatures: %s",
        options.model_name,
        version,
        tensorflow.version,
        time.monotonic() - started,
        ", ".join(signatures) or "none",
    )
    return Servable(
        name=options.model_name,
        version=version,
        session=session,
        definitions=session.signatures,
        signatures=signatures,
    )
