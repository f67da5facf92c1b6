"""The HTTP ports: the REST API and the metrics page, on one port or two, or none, as the command line sets them."""

import asyncio
import contextlib
import importlib
import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from sealserve.pki.certificate import describe
from sealserve.pki.ssl_config import SslConfig
from sealserve.serving.attested import AttestedIdentity
from sealserve.serving.command_line import config_files
from sealserve.serving.command_line.options import ServerOptions
from sealserve.serving.command_line.parameters_pb2 import MonitoringConfig
from sealserve.serving.evidence import Evidence
from sealserve.serving.file_list import FileList
from sealserve.serving.http.https import RenewableContext, renew, server_context
from sealserve.serving.receipts import Receipts
from sealserve.serving.servables import Servables
from sealserve.serving.wire.allowance import Allowance
from sealserve.serving.wire.credentials import Followed
from sealserve.serving.wire.listening import choose_address
from sealserve.serving.wire.tls_source import TlsSource, find_tls_source
from sealserve.serving_interface import METRICS_PATH

if TYPE_CHECKING:
    from sealserve.serving.http.api import Api
    from sealserve.serving.http.http_server import HttpServer
    from sealserve.serving.tracing import Tracing  # imported only if traces are on

logger = logging.getLogger(__name__)


class HttpPorts:
    """The HTTP ports. The constructor reads the configuration, and checks that the addresses are free.

    Args:
        options: The server's options.
        files: The list of the files that may be loaded.
        servables: The served models.
        allowance: The bytes that requests and answers may use.
        source: The TLS settings of the gRPC port, or None for plaintext. The HTTP ports also use them, unless the
            command line gives them other settings.
        receipts: Answers requests for receipts at the REST API's port.
        identity: The identity of an attested server, or None.
        evidence: Answers requests for evidence at the REST API's port, or None.
        open_inference: Returns the resources of the Open Inference Protocol, for the REST API's port; None for none.
        tracing: The traces, or None if they are off.

    Raises:
        SealserveError: A file cannot be used, or an address is taken.
    """

    def __init__(
        self,
        options: ServerOptions,
        files: FileList | None,
        servables: Servables,
        allowance: Allowance,
        *,
        source: TlsSource | None,
        receipts: Receipts,
        identity: AttestedIdentity | None = None,
        evidence: Evidence | None = None,
        open_inference: Callable[[], "Api"] | None = None,
        tracing: "Tracing | None" = None,
    ) -> None:
        self._open_inference = open_inference
        self._options = options
        self._tracing = tracing
        self._identity = identity
        self._receipts = receipts
        self._evidence = evidence
        self._allowance = allowance
        self._servables = servables
        self._running: list[HttpServer] = []
        self._context: RenewableContext | None = None
        self._followed: Followed | None = None
        http, flags = options.http, options.flags
        self._metrics_path = METRICS_PATH if flags.monitoring_port else None
        if http.monitoring_config_file is not None:
            config = config_files.read(http.monitoring_config_file, MonitoringConfig, files).prometheus_config
            self._metrics_path = (config.path or METRICS_PATH) if config.enable else None
        self._ports = [
            port for port in (flags.rest_api_port, flags.monitoring_port if self._metrics_path else 0) if port
        ]
        if not self._ports:
            if self._metrics_path is not None:
                logger.warning("the metrics page of --monitoring_config_file has no port: give --monitoring_port")
            return
        self._addresses = [choose_address(options.flags.bind_address, port) for port in self._ports]
        if http.ssl_config_file != options.ssl_config_file:  # an attested server has no other settings
            source = find_tls_source(http.ssl_config_file, files, identity)
        if source is not None:
            self._context = server_context(source.settings)
            self._tell_end(source.settings)
            self._followed = source.followed()
        else:
            logger.warning("DANGEROUS: serving HTTP in plaintext; anyone on the network can read inputs and answers")
        threading.Thread(target=_import_server, name="import-http", daemon=True).start()

    async def start(self) -> None:
        """Start to listen.

        Raises:
            PortTakenError: Another process took the port meanwhile.
        """
        if not self._ports:
            return
        from sealserve.serving.http.http_server import HttpLimits, HttpServer  # noqa: PLC0415  # as `_import_server`
        from sealserve.serving.http.rest import Rest  # noqa: PLC0415

        http, flags = self._options.http, self._options.flags
        limits = HttpLimits(
            threads=flags.rest_api_num_threads,
            waiting=flags.max_queued_requests,
            body=flags.rest_api_max_body_bytes,
            timeout=http.timeout,
            patience=flags.transfer_timeout_seconds,
            max_age=flags.rest_api_max_connection_age_seconds or None,
        )
        for port, address in zip(self._ports, self._addresses, strict=True):
            has_rest = port == flags.rest_api_port
            server = HttpServer(
                rest=Rest(self._servables, max_tensor_bytes=flags.max_message_bytes) if has_rest else None,
                open_inference=self._open_inference() if has_rest and self._open_inference is not None else None,
                receipts=self._receipts,
                evidence=self._evidence if has_rest else None,
                tracing=self._tracing if has_rest else None,
                metrics_path=None if has_rest and flags.monitoring_port else self._metrics_path,
                metrics=self._servables.metrics,
                limits=limits,
                allowance=self._allowance,
                cors=flags.rest_api_enable_cors_support,
                gzip=flags.rest_api_enable_gzip_responses,
            )
            self._running.append(server)
            found = await server.start(address, self._context)
            what = "the REST API" if has_rest else "metrics"
            security = "PLAINTEXT" if self._context is None else "TLS"
            logger.info("serving %s on %s:%d (%s)", what, address.rpartition(":")[0], found, security)

    def follow(self) -> None:
        """Use renewed TLS settings for new connections. Call it periodically.

        If client certificates are required, open connections end with their next answer, or as soon as they are idle.
        The client may have been revoked, or its authority removed. A renewed certificate of an identity does not end
        connections.
        """
        if self._identity is not None:
            self._servables.metrics.failed_renewals(self._identity.failed_renewals)
        settings = self._followed.newer_settings() if self._followed else None
        if self._followed is not None and settings is not None and self._context is not None:
            renew(self._context, settings)
            self._tell_end(settings)
            for server in self._running if settings.client_verify and self._followed.affects_clients else ():
                server.retire()

    def _tell_end(self, settings: SslConfig) -> None:
        self._servables.metrics.certificate_ends(describe(settings.server_cert)[0].not_after)

    @property
    def pending(self) -> int:
        """The number of requests that are being read, are running, or are waiting."""
        return sum(server.pending for server in self._running)

    async def stop(self, grace: float) -> bool:
        """Stop accepting requests, and wait ``grace`` seconds for running ones; return whether all have finished."""
        return all(await asyncio.gather(*(server.stop(grace) for server in self._running)))


def _import_server() -> None:
    """Import the HTTP server, which takes a third of a second, while TensorFlow loads the models.

    Most servers do not use HTTP, so the import is not done earlier.
    """
    with contextlib.suppress(Exception):  # `HttpPorts.start` imports it again, and reports the error
        importlib.import_module("sealserve.serving.http.http_server")
