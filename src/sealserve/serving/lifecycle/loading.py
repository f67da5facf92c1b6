"""Turns a version's folder into a servable: check the files, load the model, bind the signatures, warm up."""

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path

from sealserve.errors import SealserveError
from sealserve.serving.attested import ModelCheck
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
from sealserve.serving.runtime.freed_memory import return_freed_memory
from sealserve.serving.runtime.libtensorflow import TensorFlowError, library
from sealserve.serving.runtime.protos import ConfigProto
from sealserve.serving.runtime.session import Runnable, Session
from sealserve.serving.runtime.signature import Obstacle, Signature
from sealserve.serving.servables import Servable
from sealserve.serving.spans import NO_STAGES, Stages
from sealserve.serving_interface import OPTIMIZATION_FILE
from sealserve.tracing.span import SpanName

logger = logging.getLogger(__name__)


class LoadFailedError(DescribesModelError):
    """TensorFlow cannot load the model.

    Args:
        folder: The version's folder.
        error: TensorFlow's error.
        discreet: Whether to omit TensorFlow's message from the log, because it can name operations and paths of the
            model.
    """

    code = "servable.load-failed"

    def __init__(self, folder: Path, error: TensorFlowError, *, discreet: bool) -> None:
        failed = f"{folder} cannot be loaded: {error.status.name}"
        super().__init__(
            f"{failed}: {error.text.rstrip('.')}.",
            hint="Give the folder of a SavedModel (saved_model.pb, variables/) with the tags of --saved_model_tags.",
            log_message=f"{failed}. TensorFlow's message is omitted, because it can name parts of the model and the "
            "host can read this log. Run `sealserve model test` on the owner's machine to see it."
            if discreet
            else None,
        )
        self.status: Status = error.status
        self.text = error.text


class RefusedModelError(DescribesModelError):
    """The model has operations that the attested server rejects. They could reveal the inputs of users to the owner.

    Args:
        folder: The version's folder.
        cause: The error of the check.
    """

    code = "servable.refused-model"

    def __init__(self, folder: Path, cause: SealserveError) -> None:
        refused = f"{folder} is not loaded, because the check of its operations failed"
        super().__init__(
            f"{refused}: {cause.message}",
            hint="Build a release of a model that passes `sealserve model lint`.",
            log_message=f"{refused}. The reason is omitted, because it can name parts of the model and the host can "
            "read this log. Run `sealserve model lint` on the owner's machine to see it.",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Loader:
    """Loads versions of models.

    Args:
        options: The server's options.
        files: The list of the files that may be loaded, or None to load any file.
        check_model: Checks each model before it is loaded, or None.
        session_config: TensorFlow's settings, in addition to those in the options.
        batching: The batching parameters, or None if each request runs separately.
        scheduler: The threads that run batches.
        metrics: The metrics for loads, and for the runs of loaded versions.
        stages: The spans of loads.
    """

    options: ServerOptions
    files: FileList | None
    check_model: ModelCheck | None = None
    session_config: ConfigProto = field(default_factory=ConfigProto)
    batching: BatchingParameters | None = None
    scheduler: BatchScheduler | None = None
    metrics: Metrics = field(default_factory=Metrics)
    stages: Stages = NO_STAGES

    def load(self, name: str, version: int, folder: Path) -> Servable:
        """Load the version of a model in ``folder``.

        Raises:
            InputError: The check rejects it, TensorFlow cannot load it, or a warm-up request fails.
            VerificationError: Its files do not match the list.
            UnavailableError: TensorFlow is not installed or not usable.
        """
        with self.stages.stage(SpanName.LOAD):
            return self._load(name, version, folder)

    def _load(self, name: str, version: int, folder: Path) -> Servable:
        # 1. Check the files against the list: TensorFlow must not parse a file that the owner did not seal.
        if self.files is not None:
            started = time.monotonic()
            self.files.check_folder(folder)
            logger.info("checked the files of %s against the file list in %.2f s", folder, time.monotonic() - started)
        # An attested server also checks what the model can do, because users do not trust the owner.
        self._check(folder)
        # 2. Load the model.
        tensorflow = library()
        started = time.monotonic()
        try:
            session = Session.load(
                tensorflow,
                folder,
                tags=self.options.saved_model_tags,
                config=self._session_config(folder),
                intra_op_threads=self.options.intra_op_threads,
                inter_op_threads=self.options.inter_op_threads,
                concurrent_runs=self._concurrent_runs(),
                time_limit=self.options.flags.run_timeout_seconds,
                # The host could have replaced the file since the check: check the graph that TensorFlow read, too.
                inspect=None if self.check_model is None else lambda graph: self._check(folder, graph),
            )
        except TensorFlowError as error:
            self.metrics.loaded(folder, time.monotonic() - started, succeeded=False)
            raise LoadFailedError(folder, error, discreet=self.files is not None) from error
        self.metrics.loaded(folder, time.monotonic() - started, succeeded=True)
        # 3. Bind its signatures. For each signature that cannot be called, store the reason.
        bound = {name: Signature.bind(name, definition, session) for name, definition in session.signatures.items()}
        signatures = {name: found for name, found in sorted(bound.items()) if isinstance(found, Signature)}
        # The host can read the log: write the version, the time and the size, but no name from the model.
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
                digest=self.files.model_digest(folder) if self.files is not None else None,
            )
            # 4. Run its warm-up requests before a client can use it.
            if self.options.warmup_iterations:
                with self.stages.stage(SpanName.WARM_UP):
                    warm_up(
                        servable,
                        folder,
                        iterations=self.options.warmup_iterations,
                        discreet=self.files is not None,
                    )
        except BaseException:
            session.close()
            raise
        # 5. Free memory that only the load needed: the copies of its graph, and its files in memory.
        return_freed_memory()
        if self.options.flags.empty_files_after_load:
            logger.info("emptied the files of %s, which freed %.1f MB of memory", folder, empty_files(folder) / 1e6)
        return servable

    def _check(self, folder: Path, loaded: bytes | None = None) -> None:
        if self.check_model is None:
            return
        started = time.monotonic()
        try:
            self.check_model(
                folder,
                tags=self.options.saved_model_tags,
                dangerous_operations=self.options.dangerous_operations,
                loaded=loaded,
            )
        except SealserveError as error:
            self.metrics.loaded(folder, time.monotonic() - started, succeeded=False)
            raise RefusedModelError(folder, error) from error
        what = "the operations of" if loaded is None else "the loaded operations of"
        logger.info("checked %s %s in %.2f s", what, folder, time.monotonic() - started)

    def _session_config(self, folder: Path) -> ConfigProto:
        """Return TensorFlow's settings for a model.

        For an optimized model, TensorFlow only merges operations into oneDNN's (``remap``). The other passes were made
        before the model was sealed. They would need several times the memory of its constants, and seconds.
        """
        config = ConfigProto()
        config.CopyFrom(self.session_config)
        if (folder / OPTIMIZATION_FILE).is_file() and not config.graph_options.HasField("rewrite_options"):
            rewriting = config.graph_options.rewrite_options
            rewriting.optimizers.append("remap")
            rewriting.meta_optimizer_iterations = rewriting.ONE
        return config

    def _concurrent_runs(self) -> int:
        """Return the maximum number of concurrent runs: of requests, of batches, and of warm-up requests."""
        batches = self.scheduler.threads if self.scheduler is not None else 0
        return self.options.concurrent_requests + batches + self.options.load_threads

    def _batched(self, session: Session, folder: Path) -> Runnable:
        """Return a session that batches requests if batching is enabled; otherwise return ``session``."""
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
