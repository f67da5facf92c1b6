"""One run of the server: load, listen, serve, drain.

1. Read what needs no TensorFlow: the file list, the TLS settings; see that the port is free. 2. Load the model.
3. Open the port: only now, since a probe from outside an enclave sees nothing but the port. 4. Serve until SIGTERM or
SIGINT. 5. Drain: health says "not serving", the port closes, every connection gets GOAWAY, running requests finish
within the grace period. A second signal ends the process at once.
"""

import asyncio
import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import grpc

from sealserve.pki.ssl_config import SslConfig
from sealserve.serving.admin import AdminPort
from sealserve.serving.api.examples import (
    Call,
    answer_classify,
    answer_multi_inference,
    answer_regress,
)
from sealserve.serving.api.model_metadata import get_model_metadata
from sealserve.serving.api.model_status import get_model_status, refuse_reload
from sealserve.serving.api.predict import predict
from sealserve.serving.command_line.options import ServerOptions
from sealserve.serving.file_list import FileList
from sealserve.serving.http.http_ports import HttpPorts
from sealserve.serving.lifecycle.models import Models
from sealserve.serving.metrics import Metrics
from sealserve.serving.runtime.protos import (
    ClassificationRequest,
    GetModelMetadataRequest,
    GetModelStatusRequest,
    MultiInferenceRequest,
    PredictRequest,
    PredictResponse,
    RegressionRequest,
)
from sealserve.serving.servables import Servables
from sealserve.serving.wire import transports
from sealserve.serving.wire.allowance import Allowance
from sealserve.serving.wire.credentials import followed_credentials, read_tls_settings
from sealserve.serving.wire.health import Health
from sealserve.serving.wire.lanes import Lane
from sealserve.serving.wire.listening import choose_address, choose_socket, refused
from sealserve.serving.wire.peers import PeerCheck
from sealserve.serving.wire.rpc import TRAILER, Answer, Method, Route, counted, handlers, parsed, refusal
from sealserve.serving.wire.transport import Transport, TransportSettings

_T = TypeVar("_T")

logger = logging.getLogger(__name__)

_PREDICTION: Final = "/tensorflow.serving.PredictionService"
_MODEL: Final = "/tensorflow.serving.ModelService"
ExampleMethod = Callable[[Servables, Any, Call], Any]

_NO_PROFILER: Final = (
    "The profiler is refused: a profile shows what runs inside the enclave to whoever reaches the port."
)
_CONTROL_QUEUE: Final = 64
_MESSAGES: Final = 8
"""The requests and answers of all peers take no more memory than so many messages of the largest size."""
_SWEEP: Final = 1.0
"""Seconds between looks for calls whose message is on its way for too long."""


class Server:
    """One run.

    Args:
        options: What the command line asks for.
    """

    def __init__(self, options: ServerOptions) -> None:
        self._options = options
        self._stopping = asyncio.Event()
        self._inference = Lane(running=options.flags.grpc_max_threads, waiting=options.flags.max_queued_requests)
        self._control = Lane(running=1, waiting=_CONTROL_QUEUE)
        self._allowance = Allowance(
            _MESSAGES * max(options.flags.max_message_bytes, options.flags.rest_api_max_body_bytes)
        )

    async def run(self) -> bool:
        """Serve until a signal comes. Return whether everything came to its end: if not, threads still run.

        Raises:
            SealserveError: The server cannot start.
        """
        # Notice signals from the beginning: a load can take minutes, and SIGTERM ends it.
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) is signal.SIG_IGN:  # from the start, as in a shell's background job
                continue
            loop.add_signal_handler(number, self._on_signal, number)
        options = self._options
        # 1. Read what needs no TensorFlow: wrong files, expired certificates and taken ports are errors at once.
        files = FileList.read(options.file_list) if options.file_list else None
        tls = self._tls(files)
        addresses = self._addresses()
        # Build the parts. They share the metrics and the memory that requests of all ports may take.
        servables = Servables(Metrics())
        http = HttpPorts(options, files, servables, self._allowance)
        models = Models(options, files, servables)
        admin = AdminPort(options.admin, files, servables, models) if options.admin else None
        # 2. Load and warm up the models; a signal ends that.
        if not await self._load(models):
            return False
        # 3. Open the ports, gRPC's last: an open port tells probes that the models answer.
        await http.start()
        health = Health(watches=transports.choose().idle_calls // 4)
        check = PeerCheck(tls.revoked) if tls is not None and tls.client_verify else None
        transport = self._build(servables, health, check)
        if admin is not None:
            logger.info("operators may reload the models on %s", admin.start())
        credentials = [self._credentials(tls, files, check) for _ in addresses]
        places = [_listen(transport, *place) for place in zip(addresses, credentials, strict=True)]
        transport.start()
        logger.info("serving %s on %s (%s)", _served(models, servables), " and ".join(places), _security(tls))
        # 4. Serve until a signal comes. Each second, give up on slow clients, and take over renewed certificates and
        # revocation lists.
        while not await self._stopped_within(_SWEEP):
            transport.sweep()
            if check is not None:
                check.look()
            http.follow()
            if admin is not None:
                admin.sweep()
        # 5. Drain. First no more reloads, then health says "not serving" so that load balancers send no more clients.
        if admin is not None:
            await asyncio.wrap_future(_aside(lambda: admin.stop(0)))
        health.stop()
        # Close the ports on all sides at once; requests that run have the grace period together.
        grace = options.flags.drain_grace_seconds
        stopped = await asyncio.gather(asyncio.wrap_future(_aside(lambda: transport.stop(grace))), http.stop(grace))
        # Models that a request still uses cannot be freed: the process ends without that.
        if not all(stopped):
            models.stop_waiting()
            logger.warning(
                "stopped while %d requests still ran (grace period: %d s)",
                self._inference.pending + http.pending,
                options.flags.drain_grace_seconds,
            )
            return False
        # Free the models after their last request.
        models.close()
        logger.info("stopped; every request was answered")
        return True

    async def _stopped_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
        return self._stopping.is_set()

    def _on_signal(self, number: signal.Signals) -> None:
        if self._stopping.is_set():
            logger.warning("%s again: stopping at once", number.name)
            logging.shutdown()
            os._exit(128 + number)
        logger.info("%s: draining for at most %d s", number.name, self._options.flags.drain_grace_seconds)
        self._stopping.set()

    def _tls(self, files: FileList | None) -> SslConfig | None:
        if self._options.ssl_config_file is None:
            logger.warning("DANGEROUS: serving in plaintext; anyone on the way reads inputs and answers")
            return None
        return read_tls_settings(self._options.ssl_config_file, files, now=datetime.now(UTC))

    def _addresses(self) -> list[str]:
        options = self._options
        only_socket = options.socket_path is not None and options.flags.port == 0  # as in TensorFlow Serving
        return [
            *([] if only_socket else [choose_address(options.flags.bind_address, options.flags.port)]),
            *([] if options.socket_path is None else [choose_socket(options.socket_path)]),
        ]

    def _credentials(
        self, tls: SslConfig | None, files: FileList | None, check: PeerCheck | None
    ) -> grpc.ServerCredentials | None:
        path = self._options.ssl_config_file
        if tls is None or path is None:
            return None
        return followed_credentials(path, files, tls, check or PeerCheck(frozenset()))

    async def _load(self, models: Models) -> bool:
        """Bring up the models; return False where a signal came first."""
        loading = asyncio.wrap_future(_aside(models.start))
        stopping = asyncio.ensure_future(self._stopping.wait())
        awaited: set[asyncio.Future[Any]] = {loading, stopping}
        await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
        if self._stopping.is_set():
            loading.cancel()
            models.stop_waiting()
            logger.info("stopped before the model was loaded")
            return False
        stopping.cancel()
        loading.result()
        return True

    def _build(self, servables: Servables, health: Health, check: PeerCheck | None) -> Transport:
        options = self._options
        largest = options.flags.max_message_bytes

        def answer(request: PredictRequest, deadline: float | None) -> PredictResponse:
            return predict(
                servables,
                request,
                max_tensor_bytes=largest,
                deadline=deadline,
                as_content=options.flags.enable_serialization_as_tensor_content,
            )

        def bounded(method: ExampleMethod) -> Answer:
            return lambda request, deadline: method(
                servables, request, Call(max_tensor_bytes=largest, deadline=deadline)
            )

        metrics = servables.metrics
        inference: dict[str, Method] = {
            "Predict": counted("Predict", PredictRequest, answer, metrics),
            "Classify": counted("Classify", ClassificationRequest, bounded(answer_classify), metrics),
            "Regress": counted("Regress", RegressionRequest, bounded(answer_regress), metrics),
            "MultiInference": parsed(MultiInferenceRequest, bounded(answer_multi_inference)),
        }
        control = {
            f"{_PREDICTION}/GetModelMetadata": parsed(
                GetModelMetadataRequest, lambda request, _: get_model_metadata(servables, request)
            ),
            f"{_MODEL}/GetModelStatus": parsed(
                GetModelStatusRequest, lambda request, _: get_model_status(servables, request)
            ),
            f"{_MODEL}/HandleReloadConfigRequest": lambda _content, _deadline: refuse_reload(),
        }
        routes = {path: Route(method=method, lane=self._control) for path, method in control.items()}
        routes |= {
            f"/tensorflow.ProfilerService/{name}": Route(method=refusal(_NO_PROFILER), lane=self._control)
            for name in ("Profile", "Terminate", "Monitor")
        }
        routes |= {
            f"{_PREDICTION}/{name}": Route(method=method, lane=self._inference) for name, method in inference.items()
        }
        kind = transports.choose()
        settings = TransportSettings(
            handlers={**handlers(routes), **health.handlers},
            threads=options.flags.grpc_max_threads + self._control.width + 1,  # one always takes the next event
            calls=options.flags.grpc_max_threads + options.flags.max_queued_requests + kind.idle_calls,
            patience=options.flags.transfer_timeout_seconds,
            allowance=self._allowance,
            arguments=[
                ("grpc.server_handshake_timeout_ms", options.flags.transfer_timeout_seconds * 1000),
                ("grpc.max_receive_message_length", largest),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),  # else a second server on the same port would start and take half the load
                *options.channel_arguments,
            ],
            trailer=TRAILER,
            peer_fault=check,
        )
        return kind(settings)


def _listen(transport: Transport, address: str, credentials: grpc.ServerCredentials | None) -> str:
    """Add an address; return it as people write it."""
    port = transport.listen(address, credentials)
    if not port:
        raise refused(address)
    return address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"


def _aside(work: Callable[[], _T]) -> Future[_T]:
    """Do ``work`` on a thread that the end of the process does not wait for, unlike an executor's."""
    future: Future[_T] = Future()

    def run() -> None:
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(work())
            except BaseException as error:  # noqa: BLE001  # whoever waits gets it
                future.set_exception(error)

    threading.Thread(target=run, name="aside", daemon=True).start()
    return future


def _served(models: Models, servables: Servables) -> str:
    """Return the models and the versions that answer now."""
    served = (
        f"{name} version {version}"
        for name in models.names
        for version, state in sorted(servables.states(name).items())
        if state.servable
    )
    return ", ".join(served) or "no model"


def _security(tls: SslConfig | None) -> str:
    if tls is None:
        return "PLAINTEXT"
    return "two-way TLS: clients show a certificate" if tls.client_verify else "one-way TLS"
