"""The models of the server: their configuration, and the watching of the configuration file and version folders.

Source: tensorflow/serving, ``model_servers/server_core.cc`` (``ReloadConfig``, ``UpdateModelVersionLabelMap``,
``WaitUntilModelsAvailable``), ``model_servers/server.cc`` (``PollFilesystemAndReloadConfig``) and
``sources/storage_path/file_system_storage_path_source.cc``.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from sealserve.errors import SealserveError, VerificationError
from sealserve.serving.attested import ModelCheck
from sealserve.serving.command_line import config_files
from sealserve.serving.command_line.batching_options import BatchingOptions
from sealserve.serving.command_line.options import ServerOptions
from sealserve.serving.command_line.parameters_pb2 import BatchingParameters
from sealserve.serving.file_list import FileList
from sealserve.serving.lifecycle import model_config, versions
from sealserve.serving.lifecycle.loading import Loader
from sealserve.serving.lifecycle.manager import Manager, Retries
from sealserve.serving.lifecycle.model_config import ModelLabelError, ModelSource
from sealserve.serving.lifecycle.transition import preserve_availability, preserve_resources
from sealserve.serving.log import DescribesModelError, text_for_log
from sealserve.serving.metrics import Metrics
from sealserve.serving.request_errors import Status
from sealserve.serving.runtime.batching import BatchScheduler
from sealserve.serving.runtime.protos import ConfigProto, ModelServerConfig
from sealserve.serving.servables import Servables, State
from sealserve.serving.spans import NO_STAGES, Stages

logger = logging.getLogger(__name__)


class NotAvailableError(DescribesModelError):
    """Several models or versions did not become available, or a model was removed before it was available."""

    code = "servable.not-available"
    status = Status.UNKNOWN


class Models:
    """The configured models.

    Args:
        options: The server's options.
        files: The list of the files that may be loaded, or None to load any file.
        servables: The published states and servables.
        check_model: Checks each model before it is loaded, or None.
        stages: The spans of loads.

    Raises:
        SealserveError: ``--tensorflow_session_config_file`` or the batching parameters cannot be used.
    """

    def __init__(
        self,
        options: ServerOptions,
        files: FileList | None,
        servables: Servables,
        check_model: ModelCheck | None = None,
        stages: Stages = NO_STAGES,
    ) -> None:
        self._options = options
        self._files = files
        self._servables = servables
        batching, scheduler = _batching(options, files, servables.metrics)
        self._scheduler = scheduler
        self._manager = Manager(
            servables,
            Loader(
                options=options,
                files=files,
                check_model=check_model,
                session_config=_session_config(options, files),
                batching=batching,
                scheduler=scheduler,
                metrics=servables.metrics,
                stages=stages,
            ).load,
            policy=preserve_resources if options.flags.resource_preserving_policy else preserve_availability,
            retries=Retries(
                count=0 if files else options.flags.max_num_load_retries, interval=options.load_retry_interval
            ),
            load_threads=options.load_threads,
            unload_threads=options.unload_threads,
        )
        self._config = ModelServerConfig()
        self._sources: Mapping[str, ModelSource] = {}
        self._told: dict[str, str] = {}
        self._changing = threading.Lock()
        self._stopping = threading.Event()
        self._pollers: list[threading.Thread] = []

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the configured models."""
        return tuple(self._sources)

    def start(self) -> None:
        """Load the models of the command line; return when each model has an available version.

        Raises:
            SealserveError: A model has no available version, and cannot get one.
        """
        options = self._options
        path = options.model_config_file
        if path is None:
            new = self._apply(model_config.single(options.flags.model_name, options.model_base_path))
        else:
            new = self._apply(config_files.read(path, ModelServerConfig, self._files))
            if options.flags.model_config_file_poll_wait_seconds > 0:
                self._every(
                    options.flags.model_config_file_poll_wait_seconds, "poll-config", lambda: self._poll_config(path)
                )
        if options.flags.file_system_poll_wait_seconds > 0:
            self._every(options.flags.file_system_poll_wait_seconds, "poll-versions", self._poll)
        self._await(new)

    def reload(self, config: ModelServerConfig, *, given_up: Callable[[], bool] = lambda: False) -> None:
        """Serve the models of ``config`` from now on; return when the new models are available.

        Unlike the start, a reload does not wait for a version folder that may never appear. It is rejected instead.

        Args:
            config: The models.
            given_up: Returns whether the caller stopped waiting. Call `wake` when its result changes.

        Raises:
            ModelConfigError: The configuration is invalid or not supported; the previous one stays.
            BasePathMissingError, NoVersionError: A new model has no version; the previous configuration stays.
            NotAvailableError: A later configuration removed a new model before it was available.
            SealserveError: A new model does not become available.
        """
        new = self._apply(config, must_exist=True)
        self._await(new, given_up)
        if removed := [name for name in new if name not in self._sources]:
            raise NotAvailableError(
                f"The reload failed: a later configuration removed {', '.join(removed)} before it was available.",
                hint="Reload again if the models are still wanted.",
            )

    def wake(self) -> None:
        """Make each waiting `reload` check ``given_up`` again."""
        self._manager.wake()

    def _apply(self, config: ModelServerConfig, *, must_exist: bool = False) -> list[str]:
        """Apply a configuration, and return the names of its new models.

        Args:
            config: The configuration.
            must_exist: Whether to reject a new model that has no version yet, even if its folder is checked again
                later.
        """
        with self._changing:
            sources = model_config.check(config)
            if config.WhichOneof("config") is None:
                logger.info("ignored an empty model configuration")
                return []
            labels = self._labels(sources)
            new = [name for name in sources if name not in self._sources]
            gone = [name for name in self._sources if name not in sources]
            found = {name: self._find(sources[name], first=True, must_exist=must_exist) for name in new}
            self._servables.metrics.serve(sources)
            self._config, self._sources = config, sources
            self._servables.set_labels(labels)
            for name in gone:
                self._manager.aspire(name, {})
            for name, folders in found.items():
                self._manager.aspire(name, folders)
            self._aspire([name for name in sources if name not in found])
            self._manager.wake()
            return new

    def close(self) -> None:
        """Stop watching, and free each loaded version after its last request."""
        self._stopping.set()
        self._manager.close()
        if self._scheduler is not None:
            self._scheduler.close()
        for poller in self._pollers:
            poller.join()

    def stop_waiting(self) -> None:
        """Stop watching and waiting, without freeing any version."""
        self._stopping.set()
        self._manager.wake()

    def _labels(self, sources: Mapping[str, ModelSource]) -> Mapping[str, Mapping[str, int]]:
        for source in sources.values():
            states = self._servables.states(source.name)
            for label, version in source.labels.items():
                former = self._servables.label(source.name, label)
                unused = former is None or former == version
                if self._options.flags.allow_version_labels_for_unavailable_models and unused:
                    continue
                if version not in states or states[version].state is not State.AVAILABLE:
                    raise ModelLabelError(
                        f"Request to assign label to version {version} of model {source.name}, which is not currently"
                        " available for inference",
                        hint="Start with --allow_version_labels_for_unavailable_models, or add the label later.",
                    )
        return {source.name: source.labels for source in sources.values()}

    def _find(self, source: ModelSource, *, first: bool = False, must_exist: bool = False) -> Mapping[int, Path]:
        """Return the wanted version folders of a model. Empty if the model is new and its folders may still appear."""
        try:
            found = versions.aspired(versions.available(source.base_path, self._files), source.policy)
        except (versions.BasePathMissingError, versions.NoVersionError) as error:
            if must_exist or (first and self._options.flags.file_system_poll_wait_seconds == 0):
                raise
            self._tell(
                f"model {source.name}",
                logging.WARNING,
                f"no version of {source.name}: {error.message} The folder is checked again periodically.",
            )
            if isinstance(error, versions.BasePathMissingError) and not first:
                raise
            return {}
        self._told.pop(f"model {source.name}", None)
        return found

    def _await(self, names: list[str], given_up: Callable[[], bool] = lambda: False) -> None:
        """Wait until each of the models is available, has failed, or was removed by a later configuration."""

        def settled() -> bool:
            return all(name not in self._sources or self._manager.settled(name) for name in names)

        self._manager.wait(lambda: self._stopping.is_set() or given_up() or settled())
        errors = [
            (name, version, error)
            for name in names
            for version, error in sorted(self._manager.errors(name).items(), reverse=True)
        ]
        if not errors:
            return
        for _, _, error in errors:
            if len(errors) == 1 or isinstance(error, VerificationError):
                raise error

        def listed(text: Callable[[SealserveError], str]) -> str:
            rows = (
                f"{{{{name: {name} version: {version}}} due to error: {text(error)}}}, "
                for name, version, error in errors
            )
            return f"{len(errors)} servable(s) did not become available: {{{''.join(rows)}}}"

        raise NotAvailableError(listed(lambda error: error.message), log_message=listed(text_for_log))

    def _every(self, seconds: int, name: str, function: Callable[[], None]) -> None:
        def run() -> None:
            while not self._stopping.wait(seconds):
                try:
                    function()
                except SealserveError as error:
                    self._tell(name, logging.ERROR, f"{name}: {text_for_log(error)}")
                except Exception:
                    logger.exception("%s failed", name)
                else:
                    self._told.pop(name, None)

        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
        self._pollers.append(thread)

    def _tell(self, subject: str, level: int, message: str) -> None:
        """Log a message, unless the previous message about the subject was the same."""
        if self._told.get(subject) != message:
            self._told[subject] = message
            logger.log(level, message)

    def _poll(self) -> None:
        with self._changing:
            self._aspire(list(self._sources))

    def _aspire(self, names: list[str]) -> None:
        for name in names:
            try:
                self._manager.aspire(name, self._find(self._sources[name]))
            except versions.BasePathMissingError:
                continue  # the folder may reappear soon, so loaded versions stay
            except SealserveError as error:
                self._tell(f"model {name}", logging.ERROR, f"finding versions of {name} failed: {text_for_log(error)}")

    def _poll_config(self, path: Path) -> None:
        config = config_files.read(path, ModelServerConfig, self._files)
        if config != self._config:  # do not wait for new models: the file may be corrected meanwhile
            self._apply(config, must_exist=True)


def _session_config(options: ServerOptions, files: FileList | None) -> ConfigProto:
    path = options.session_config_file
    return ConfigProto() if path is None else config_files.read(path, ConfigProto, files)


def _batching(
    options: ServerOptions, files: FileList | None, metrics: Metrics
) -> tuple[BatchingParameters, BatchScheduler] | tuple[None, None]:
    """Return the batching parameters and the threads that run batches, or None twice if batching is off."""
    if options.batching is None:
        return None, None
    parameters = BatchingParameters()
    if options.batching.parameters_file is not None:
        parameters = config_files.read(options.batching.parameters_file, BatchingParameters, files)
    BatchingOptions.of(parameters)
    return parameters, BatchScheduler.of(parameters, metrics)
