"""One run of the server: load, listen, serve, drain.

1. Read the files that do not require TensorFlow: the file list and the TLS settings. Check that the port is free.
2. Load the model.
3. Open the port. It is opened only now, because a probe from outside an enclave can check only the port.
4. Serve until SIGTERM or SIGINT.
5. Drain: the health service reports NOT_SERVING, the port closes, every connection gets GOAWAY, and running requests
   finish within the grace period. A second signal ends the process immediately.
"""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import grpc

from sealserve.attested import evidence_service_pb2
from sealserve.daemon_thread import in_thread
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
from sealserve.serving.attested import AttestedIdentity, ModelCheck
from sealserve.serving.command_line.options import ServerOptions
from sealserve.serving.evidence import Evidence
from sealserve.serving.file_list import FileList
from sealserve.serving.http.http_ports import HttpPorts
from sealserve.serving.lifecycle.models import Models
from sealserve.serving.metrics import Metrics
from sealserve.serving.open_inference import methods, open_inference_grpc_pb2
from sealserve.serving.open_inference.service import OpenInference
from sealserve.serving.receipts import Receipts
from sealserve.serving.runtime.protos import (
    MODEL_SERVICE_FILE,
    PREDICTION_SERVICE_FILE,
    ClassificationRequest,
    GetModelMetadataRequest,
    GetModelStatusRequest,
    MultiInferenceRequest,
    PredictRequest,
    PredictResponse,
    RegressionRequest,
)
from sealserve.serving.servables import Servables
from sealserve.serving.spans import NO_STAGES, Begin, Stages
from sealserve.serving.wire import transports
from sealserve.serving.wire.allowance import Allowance
from sealserve.serving.wire.health import HEALTH_FILE, Health
from sealserve.serving.wire.lanes import Lane
from sealserve.serving.wire.listening import choose_address, choose_socket, refused
from sealserve.serving.wire.peers import PeerCheck
from sealserve.serving.wire.reflection import Reflection
from sealserve.serving.wire.reflection_messages import VERSIONS
from sealserve.serving.wire.rpc import INSTANCE, TRAILER, Answer, Method, Route, counted, handlers, parsed, refusal
from sealserve.serving.wire.schema import Schema
from sealserve.serving.wire.tls_source import TlsSource, find_tls_source
from sealserve.serving.wire.transport import Handler, Transport, TransportSettings
from sealserve.serving_interface import EVIDENCE_METHOD

if TYPE_CHECKING:
    from sealserve.serving.http.api import Api
    from sealserve.serving.tracing import Tracing  # imported only if traces are on

logger = logging.getLogger(__name__)

_PREDICTION: Final = "/tensorflow.serving.PredictionService"
_MODEL: Final = "/tensorflow.serving.ModelService"
ExampleMethod = Callable[[Servables, Any, Call], Any]

_NO_PROFILER: Final = (
    "The profiler is disabled: a profile would show every client of this port what runs inside the enclave."
)
_CONTROL_QUEUE: Final = 64
_MESSAGES: Final = 8
"""The limit for the memory of all peers' requests and answers, as a multiple of the maximum message size."""
_SWEEP: Final = 1.0
"""Seconds between checks for calls whose message takes too long to arrive."""


class Server:
    """One run of the server.

    Args:
        options: The options from the command line.
        identity: The identity of an attested server: its TLS key and certificate, its evidence, and its receipts. With
            ``None``, the TLS key is in the file of ``--ssl_config_file``.
        check_model: Checks each model before it is loaded, or None.
        tracing: The traces, or None if they are off. The caller closes it.
    """

    def __init__(
        self,
        options: ServerOptions,
        identity: AttestedIdentity | None = None,
        check_model: ModelCheck | None = None,
        tracing: "Tracing | None" = None,
    ) -> None:
        self._options = options
        self._identity = identity
        self._check_model = check_model
        self._tracing = tracing
        self._stopping = asyncio.Event()
        self._transport_kind = transports.choose()
        self._queue = min(options.flags.max_queued_requests, self._transport_kind.longest_queue)
        self._inference = Lane(running=options.flags.grpc_max_threads, waiting=self._queue)
        self._control = Lane(running=1, waiting=_CONTROL_QUEUE)
        self._evidence_lane = Lane(running=1, waiting=_CONTROL_QUEUE)
        self._allowance = Allowance(
            _MESSAGES * max(options.flags.max_message_bytes, options.flags.rest_api_max_body_bytes)
        )

    async def run(self) -> bool:
        """Serve until a signal arrives. Return whether all work has ended; if not, threads are still running.

        Raises:
            SealserveError: The server cannot start.
        """
        # Handle signals from the beginning, because a load can take minutes and SIGTERM must be able to end it.
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) is signal.SIG_IGN:  # ignored by the parent, as in a shell's background job
                continue
            loop.add_signal_handler(number, self._on_signal, number)
        options = self._options
        # 1. Read the files that do not require TensorFlow, so that faults and taken ports are reported immediately.
        files = FileList.read(options.file_list) if options.file_list else None
        source = self._tls(files)
        tls = source.settings if source is not None else None
        stages = self._begin_traces(files)
        addresses = self._addresses()
        # Build the parts. They share the metrics, and the memory allowance for requests of all ports.
        servables = Servables(Metrics())
        evidence = Evidence(self._identity) if self._identity is not None else None
        receipts = Receipts(self._identity, servables)
        health = Health(watches=self._transport_kind.idle_calls // 4)
        reflection = Reflection(_schema(evidence), streams=self._transport_kind.idle_calls // 8)
        open_inference = OpenInference(
            servables, max_tensor_bytes=options.flags.max_message_bytes, is_ready=lambda: health.is_serving
        )
        http = HttpPorts(
            options,
            files,
            servables,
            self._allowance,
            source=source,
            receipts=receipts,
            identity=self._identity,
            evidence=evidence,
            open_inference=lambda: _open_inference_rest(open_inference),
            tracing=self._tracing,
        )
        models = Models(options, files, servables, self._check_model, stages)
        admin = AdminPort(options.admin, files, servables, models) if options.admin else None
        # 2. Load and warm up the models. A signal stops this step.
        if not await self._load(models):
            return False
        # 3. Open the ports, gRPC's last, because probes interpret an open port as ready.
        await http.start()
        check = PeerCheck(tls.revoked) if tls is not None and tls.client_verify else None
        transport = self._build(
            servables,
            open_inference,
            {**health.handlers, **reflection.handlers},
            check,
            evidence=evidence,
            receipts=receipts,
        )
        if admin is not None:
            logger.info("operators may reload the models on %s", admin.start())
        credentials = [_credentials(source, check) for _ in addresses]
        places = [_listen(transport, *place) for place in zip(addresses, credentials, strict=True)]
        transport.start()
        stages.end_start(failed=False)
        logger.info("serving %s on %s (%s)", _served(models, servables), " and ".join(places), _security(tls))
        # 4. Serve until a signal arrives. Each second, disconnect slow clients, and load renewed certificates and
        # revocation lists.
        while not await self._stopped_within(_SWEEP):
            transport.sweep()
            if check is not None:
                check.look()
            http.follow()
            self._count_spans(servables.metrics)
            if admin is not None:
                admin.sweep()
        # 5. Drain. First stop reloads. Then report NOT_SERVING, so that load balancers send no more clients.
        if admin is not None:
            await in_thread(lambda: admin.stop(0))
        health.stop()
        reflection.stop()
        # Close all ports at the same time. Running requests share the grace period.
        grace = options.flags.drain_grace_seconds
        stopped = await asyncio.gather(in_thread(lambda: transport.stop(grace)), http.stop(grace))
        # Models that a request still uses cannot be freed, so the process ends without freeing them.
        if not all(stopped):
            models.stop_waiting()
            logger.warning(
                "stopped while %d requests were still running (grace period: %d s)",
                self._inference.pending + http.pending,
                options.flags.drain_grace_seconds,
            )
            return False
        # Free the models after their last request.
        models.close()
        logger.info("stopped; every request was answered")
        return True

    def _begin_traces(self, files: FileList | None) -> Stages:
        """Begin to send spans, and return the stages of the start."""
        if self._tracing is None:
            return NO_STAGES
        self._tracing.connect(files, instance=INSTANCE)
        return self._tracing.stages

    def _count_spans(self, metrics: Metrics) -> None:
        if self._tracing is not None:
            metrics.spans(self._tracing.counts())

    async def _stopped_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
        return self._stopping.is_set()

    def _on_signal(self, number: signal.Signals) -> None:
        if self._stopping.is_set():
            logger.warning("%s again: stopping immediately", number.name)
            logging.shutdown()
            os._exit(128 + number)
        logger.info("%s: draining for at most %d s", number.name, self._options.flags.drain_grace_seconds)
        self._stopping.set()

    def _tls(self, files: FileList | None) -> TlsSource | None:
        source = find_tls_source(self._options.ssl_config_file, files, self._identity)
        if source is None:
            logger.warning("DANGEROUS: serving in plaintext; anyone on the network can read inputs and answers")
        return source

    def _addresses(self) -> list[str]:
        options = self._options
        only_socket = options.socket_path is not None and options.flags.port == 0  # as in TensorFlow Serving
        return [
            *([] if only_socket else [choose_address(options.flags.bind_address, options.flags.port)]),
            *([] if options.socket_path is None else [choose_socket(options.socket_path)]),
        ]

    async def _load(self, models: Models) -> bool:
        """Load the models; return False if a signal arrived first."""
        loading = asyncio.ensure_future(in_thread(models.start))
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

    def _build(
        self,
        servables: Servables,
        open_inference: OpenInference,
        more: Mapping[str, Handler],
        check: PeerCheck | None,
        *,
        evidence: Evidence | None,
        receipts: Receipts,
    ) -> Transport:
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
            f"{_MODEL}/GetModelStatus": parsed(
                GetModelStatusRequest, lambda request, _: get_model_status(servables, request)
            ),
            f"{_MODEL}/HandleReloadConfigRequest": lambda _content, _deadline: refuse_reload(),
        }
        metadata = parsed(GetModelMetadataRequest, lambda request, _: get_model_metadata(servables, request))
        routes = {path: Route(method=method, lane=self._control) for path, method in control.items()}
        routes[f"{_PREDICTION}/GetModelMetadata"] = Route(method=metadata, lane=self._control, receipts=receipts)
        if evidence is not None:
            routes[EVIDENCE_METHOD] = Route(
                method=evidence.answer_message, lane=self._evidence_lane, admit=evidence.admit
            )
        routes |= {
            f"/tensorflow.ProfilerService/{name}": Route(method=refusal(_NO_PROFILER), lane=self._control)
            for name in ("Profile", "Terminate", "Monitor")
        }
        routes |= {
            f"{_PREDICTION}/{name}": Route(
                method=method,
                lane=self._inference,
                receipts=receipts,
                begin_trace=self._traced(f"{_PREDICTION}/{name}"),
            )
            for name, method in inference.items()
        }
        routes |= methods.routes(
            open_inference,
            inference=self._inference,
            control=self._control,
            receipts=receipts,
            begin_trace=self._traced(f"/{methods.SERVICE}/{methods.MODEL_INFER}"),
        )
        kind = self._transport_kind
        settings = TransportSettings(
            handlers={**handlers(routes), **more},
            threads=options.flags.grpc_max_threads
            + self._control.width
            + self._evidence_lane.width
            + 1,  # one waits for the next event
            calls=options.flags.grpc_max_threads + self._queue + kind.idle_calls,
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

    def _traced(self, path: str) -> Begin | None:
        """Return the decision which requests of a gRPC method are traced; None if traces are off."""
        return None if self._tracing is None else self._tracing.grpc(path.removeprefix("/"))


def _schema(evidence: Evidence | None) -> Schema:
    """Return the schema that reflection shows: the services that the server has."""
    return Schema(
        [
            *(PREDICTION_SERVICE_FILE, MODEL_SERVICE_FILE, open_inference_grpc_pb2.DESCRIPTOR, HEALTH_FILE),
            *(version.file for version in VERSIONS),
            *([] if evidence is None else [evidence_service_pb2.DESCRIPTOR]),
        ]
    )


def _open_inference_rest(service: OpenInference) -> "Api":
    from sealserve.serving.open_inference.rest import OpenInferenceRest  # noqa: PLC0415  # only a REST port needs it

    return OpenInferenceRest(service)


def _credentials(source: TlsSource | None, check: PeerCheck | None) -> grpc.ServerCredentials | None:
    return None if source is None else source.credentials(check or PeerCheck(frozenset()))


def _listen(transport: Transport, address: str, credentials: grpc.ServerCredentials | None) -> str:
    """Add an address; return it in its usual notation, with the actual port."""
    port = transport.listen(address, credentials)
    if not port:
        raise refused(address)
    return address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"


def _served(models: Models, servables: Servables) -> str:
    """Return a list of the models and versions that are available now."""
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
