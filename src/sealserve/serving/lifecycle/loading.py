"""From a version's folder to a servable: check its files, load it, bind its signatures, warm it up."""

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path

from sealserve.serving.command_line import config_files
from sealserve.serving.command_line.batching_options import PARAMETERS_FILE, BatchingOptions
from sealserve.serving.command_line.options import ServerOptions
from sealserve.serving.command_line.parameters_pb2 import BatchingParameters
from sealserve.serving.file_list import FileList
from sealserve.serving.lifecycle.emptying import empty_files
from sealserve.serving.lifecycle.warmup import warm_up
from sealserve.serving.log import DescribesModelError
from sealserve.serving.metrics import Metrics
from sealserve.serving.request_errors import Status
from sealserve.serving.runtime.batching import BatchingSession, BatchScheduler
from sealserve.serving.runtime.libtensorflow import TensorFlowError, library
from sealserve.serving.runtime.protos import ConfigProto
from sealserve.serving.runtime.session import Runnable, Session
from sealserve.serving.runtime.signature import Obstacle, Signature
from sealserve.serving.servables import Servable

logger = logging.getLogger(__name__)


class LoadFailedError(DescribesModelError):
    """TensorFlow does not load the model.

    Args:
        folder: The version's folder.
        error: What TensorFlow says.
        discreet: Keep TensorFlow's message out of the log, because it can name operations and paths of the model.
    """

    code = "servable.load-failed"

    def __init__(self, folder: Path, error: TensorFlowError, *, discreet: bool) -> None:
        failed = f"{folder} was not loaded: {error.status.name}"
        super().__init__(
            f"{failed}: {error.text.rstrip('.')}.",
            hint="It should hold a SavedModel (saved_model.pb, variables/) with the tags of --saved_model_tags.",
            log_message=f"{failed} (the host reads this log, so TensorFlow's message, which can name parts of "
            "the model, is not in it: `sealserve model test` shows it to the owner)."
            if discreet
            else None,
        )
        self.status: Status = error.status
        self.text = error.text


@dataclass(frozen=True, slots=True, kw_only=True)
class Loader:
    """How versions are loaded.

    Args:
        options: What the command line asks for.
        files: The list of the files that may be loaded, or None to load what is there.
        session_config: TensorFlow's settings, beside those that the options have.
        batching: How requests are run together, or None for each by itself.
        scheduler: The threads for that.
        metrics: Where loads are counted, and the runs of what is loaded.
    """

    options: ServerOptions
    files: FileList | None
    session_config: ConfigProto = field(default_factory=ConfigProto)
    batching: BatchingParameters | None = None
    scheduler: BatchScheduler | None = None
    metrics: Metrics = field(default_factory=Metrics)

    def load(self, name: str, version: int, folder: Path) -> Servable:
        """Return the version of a model in ``folder``, loaded.

        Raises:
            InputError: TensorFlow does not load it, or a warm-up request fails.
            VerificationError: Its files are not those of the list.
            UnavailableError: TensorFlow is not installed, or not usable.
        """
        # 1. Check the files against the list: TensorFlow must not parse a file that the owner did not seal.
        if self.files is not None:
            started = time.monotonic()
            self.files.check_folder(folder)
            logger.info("checked the files of %s against the file list in %.2f s", folder, time.monotonic() - started)
        # 2. Load the model.
        tensorflow = library()
        started = time.monotonic()
        try:
            session = Session.load(
                tensorflow,
                folder,
                tags=self.options.saved_model_tags,
                config=self.session_config,
                intra_op_threads=self.options.intra_op_threads,
                inter_op_threads=self.options.inter_op_threads,
                concurrent_runs=self._concurrent_runs(),
                time_limit=self.options.flags.run_timeout_seconds,
            )
        except TensorFlowError as error:
            self.metrics.loaded(folder, time.monotonic() - started, succeeded=False)
            raise LoadFailedError(folder, error, discreet=self.files is not None) from error
        self.metrics.loaded(folder, time.monotonic() - started, succeeded=True)
        # 3. Bind its signatures; the ones that cannot be called keep the reason.
        bound = {name: Signature.bind(name, definition, session) for name, definition in session.signatures.items()}
        signatures = {name: found for name, found in sorted(bound.items()) if isinstance(found, Signature)}
        # The host of an enclave reads the log: it gets the version, the time and the size, and no name from the model.
        logger.info(
            "loaded %s version %d (TensorFlow %s) in %.2f s: %.1f MB, %d signature(s)",
            name,
            version,
            tensorflow.version,
            time.monotonic() - started,
            _size(folder) / 1e6,
            len(signatures),
        )
        try:
            servable = Servable(
                name=name,
                version=version,
                session=self._batched(session, folder),
                definitions=session.signatures,
                signatures=signatures,
                obstacles={name: found.reason for name, found in bound.items() if isinstance(found, Obstacle)},
                check_method_names=self.options.flags.enable_signature_method_name_check,
                metrics=self.metrics,
            )
            # 4. Run its warm-up requests, before any client waits for it.
            if self.options.warmup_iterations:
                warm_up(
                    servable,
                    folder,
                    iterations=self.options.warmup_iterations,
                    discreet=self.files is not None,
                )
        except BaseException:
            session.close()
            raise
        # 5. Empty its files, which lie in memory and are not needed any more.
        if self.options.flags.empty_files_after_load:
            logger.info("emptied the files of %s: %.1f MB of memory are free", folder, empty_files(folder) / 1e6)
        return servable

    def _concurrent_runs(self) -> int:
        """Return how many runs there can be at once: of requests, of batches, and of warm-up requests."""
        batches = self.scheduler.threads if self.scheduler is not None else 0
        return self.options.concurrent_requests + batches + self.options.load_threads

    def _batched(self, session: Session, folder: Path) -> Runnable:
        """Return what runs requests together, where that is asked for."""
        parameters, flags = self.batching, self.options.batching
        if parameters is None or self.scheduler is None or flags is None:
            return session
        if flags.per_model:
            path = folder / PARAMETERS_FILE
            if not path.exists():
                return session
            parameters = config_files.read(path, BatchingParameters, self.files)
        return BatchingSession(session, self.scheduler, BatchingOptions.of(parameters))


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
