"""The admin address, at which operators change the served models at run time. Clients' addresses reject such requests.

TensorFlow Serving answers HandleReloadConfigRequest on the port that all clients use. Here it requires a separate
address that only operators can reach: a Unix socket, or a port that asks for a certificate of a separate authority.

Source: tensorflow/serving, ``model_servers/model_service_impl.cc``.
"""

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import grpc

from sealserve.errors import SealserveError
from sealserve.serving.api.model_status import get_model_status
from sealserve.serving.codes import ServingCode
from sealserve.serving.command_line.options import AdminOptions
from sealserve.serving.file_list import FileList
from sealserve.serving.lifecycle.models import Models
from sealserve.serving.log import text_for_log
from sealserve.serving.metrics import Metrics
from sealserve.serving.request_errors import RequestCode, RequestError, Status
from sealserve.serving.runtime.protos import GetModelStatusRequest, ReloadConfigRequest, ReloadConfigResponse
from sealserve.serving.servables import Servables
from sealserve.serving.wire import transports
from sealserve.serving.wire.allowance import Allowance
from sealserve.serving.wire.credentials import followed_credentials, read_tls_settings
from sealserve.serving.wire.health import Health
from sealserve.serving.wire.lanes import Lane
from sealserve.serving.wire.listening import choose_address, choose_socket, refused
from sealserve.serving.wire.peers import PeerCheck
from sealserve.serving.wire.rpc import TRAILER, Route, handlers, parsed, run
from sealserve.serving.wire.transport import Call, TransportSettings

logger = logging.getLogger(__name__)

_MODEL = "/tensorflow.serving.ModelService"
_LARGEST = 4 * 2**20
_WAITING = 8
_PATIENCE = 60.0


class ReloadConfigError(RequestError):
    """The requested models cannot be served. The error has the status of the original error.

    Args:
        error: The original error.
    """

    code = "request.reload-config"

    def __init__(self, error: SealserveError) -> None:
        found = getattr(error, "status", None)
        super().__init__(error.message, status=found if isinstance(found, Status) else Status.FAILED_PRECONDITION)


def reload_config(
    models: Models, metrics: Metrics, request: ReloadConfigRequest, *, given_up: Callable[[], bool] = lambda: False
) -> ReloadConfigResponse:
    """Serve the models that ``request`` lists; return when the new models are available.

    Args:
        models: The models to change.
        metrics: The metrics whose changes the request can ask for.
        request: The request.
        given_up: Returns whether the caller stopped waiting. Call `Models.wake` when its result changes.

    Raises:
        RequestError: The models cannot be served.
    """
    if request.config.WhichOneof("config") != "model_config_list":
        raise RequestCode.MALFORMED.error(
            "ServerModelConfig type not supported by HandleReloadConfigRequest."
            " Only ModelConfigList is currently supported"
        )
    before = {name: metrics.value(name) for name in request.metric_names}
    try:
        models.reload(request.config, given_up=given_up)
    except SealserveError as error:
        logger.error("reload failed: %s", text_for_log(error))  # noqa: TRY400  # one line
        raise ReloadConfigError(error) from error
    logger.info("reloaded the models: %s", ", ".join(models.names) or "none")
    if given_up():
        logger.warning("the caller of the reload stopped waiting before every new model was available")
    response = ReloadConfigResponse()
    response.status.SetInParent()
    for name, value in before.items():
        response.metric.add(name=name, int64_value_increase=metrics.value(name) - value)
    return response


class AdminPort:
    """The server on the admin address. The constructor reads the TLS settings and checks that the address is free.

    Args:
        options: The address and its TLS settings.
        files: The list of the files that may be loaded.
        servables: The served models.
        models: The models' configuration, which a reload changes.

    Raises:
        SealserveError: The address cannot be used, or would accept clients without a certificate.
    """

    def __init__(self, options: AdminOptions, files: FileList | None, servables: Servables, models: Models) -> None:
        self._address, self._credentials, self._check = _place(options, files)
        lane = Lane(running=1, waiting=_WAITING)
        self.health = Health()
        status = parsed(GetModelStatusRequest, lambda request, _: get_model_status(servables, request))
        settings = TransportSettings(
            handlers={
                **handlers({f"{_MODEL}/GetModelStatus": Route(method=status, lane=lane)}),
                f"{_MODEL}/HandleReloadConfigRequest": lambda call: _reload(call, models, servables.metrics),
                **self.health.handlers,
            },
            threads=2,
            calls=2 * _WAITING,
            patience=_PATIENCE,
            allowance=Allowance(_WAITING * _LARGEST),
            arguments=[("grpc.max_receive_message_length", _LARGEST), ("grpc.so_reuseport", 0)],
            trailer=TRAILER,
            peer_fault=self._check,
        )
        self._transport = transports.choose()(settings)

    def start(self) -> str:
        """Listen on the address, and return it.

        Raises:
            PortTakenError: Another process took the port meanwhile.
            AddressError: gRPC cannot listen there for a different reason.
        """
        port = self._transport.listen(self._address, self._credentials)
        if not port:
            raise refused(self._address)
        self._transport.start()
        host, _, _ = self._address.rpartition(":")
        return self._address if self._address.startswith("unix:") else f"{host}:{port}"

    def sweep(self) -> None:
        """Cancel calls whose message takes too long to arrive, and check for newer revocation lists.

        Call it periodically.
        """
        self._transport.sweep()
        if self._check is not None:
            self._check.look()

    def stop(self, grace: float) -> bool:
        """Stop accepting calls, and wait ``grace`` seconds for open calls; return whether all have ended."""
        self.health.stop()
        return self._transport.stop(grace)


def _reload(call: Call, models: Models, metrics: Metrics) -> None:
    """Answer a reload in a separate thread, because it may wait for minutes, and other calls must not wait for it.

    The transport limits the number of these threads. A wait ends when the caller cancels or its deadline passes.
    """

    def reload(request: ReloadConfigRequest, _deadline: float | None) -> ReloadConfigResponse:
        return reload_config(models, metrics, request, given_up=lambda: call.cancelled)

    def answer() -> None:
        try:
            run(call, parsed(ReloadConfigRequest, reload))()
        except Exception:
            logger.exception("answering a reload failed")

    call.on_cancel = models.wake
    threading.Thread(target=answer, name="reload", daemon=True).start()


def _place(
    options: AdminOptions, files: FileList | None
) -> tuple[str, grpc.ServerCredentials | None, PeerCheck | None]:
    """Return the address in gRPC's form, its TLS credentials, and the check of operators' certificates."""
    if options.address.startswith("unix:"):
        return choose_socket(Path(options.address.removeprefix("unix:"))), None, None
    host, _, port = options.address.rpartition(":")
    if not port.isdecimal() or not host:
        raise ServingCode.SERVER_ADMIN_TLS.error(
            f"--admin_address is invalid: expected HOST:PORT or unix:PATH, got {options.address!r}.",
            hint="Give for example --admin_address=unix:/run/sealserve/admin.sock.",
        )
    if options.ssl_config_file is None:
        raise ServingCode.SERVER_ADMIN_TLS.error(
            "--admin_address is a port, which requires --admin_ssl_config_file.",
            hint="Give TLS settings that ask for a client certificate, or a Unix socket: --admin_address=unix:PATH.",
        )
    settings = read_tls_settings(options.ssl_config_file, files, now=datetime.now(UTC))
    if not settings.client_verify:
        raise ServingCode.SERVER_ADMIN_TLS.error(
            f"The admin address is not protected: {options.ssl_config_file} does not ask for client certificates.",
            hint="Set client_verify: true, and set custom_ca to an authority that signs only operators' certificates.",
        )
    check = PeerCheck(settings.revoked)
    credentials = followed_credentials(options.ssl_config_file, files, settings, check)
    return choose_address(host.strip("[]"), int(port)), credentials, check
