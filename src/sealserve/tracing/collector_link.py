"""The connection that sends spans to a collector, with OTLP over gRPC.

The collector is an untrusted peer. The content of its answers is never used, and gRPC limits the size and the time of
an answer. There are no redirects.

Source: open-telemetry/opentelemetry-proto 1.10.0, ``docs/specification.md`` ("OTLP/gRPC") and
``collector/trace/v1/trace_service.proto``.
"""

from typing import Final

import grpc

from sealserve.tracing.collector import Collector
from sealserve.tracing.exporter import NotExportedError

EXPORT_METHOD: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
_LARGEST_ANSWER: Final = 64 * 1024
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", _LARGEST_ANSWER),
    ("grpc.per_message_decompression", 0),  # a small answer could become large
    ("grpc.max_metadata_size", 8 * 1024),
    ("grpc.absolute_max_metadata_size", 8 * 1024),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 30_000),
)


class CollectorLink:
    """A connection to a collector. It is established when it is first used, and again after it was lost.

    Args:
        collector: The collector.
        ca: The only CA certificates that may have issued its certificate, PEM. None means the CAs in gRPC's package.
    """

    def __init__(self, collector: Collector, ca: bytes | None = None) -> None:
        address = f"dns:{collector.address}"
        if collector.tls:
            self._channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(ca), _OPTIONS)
        else:
            self._channel = grpc.insecure_channel(address, _OPTIONS)
        self._export: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(
            EXPORT_METHOD, request_serializer=None, response_deserializer=None
        )

    def send(self, message: bytes, *, seconds: float) -> None:
        """Send a message with spans.

        Args:
            message: The message.
            seconds: The time limit.

        Raises:
            NotExportedError: The collector did not accept it in time.
        """
        try:
            self._export(message, timeout=seconds)
        except grpc.RpcError as error:
            raise NotExportedError(error.code().name) from None  # the details are the collector's text
        except ValueError:
            raise NotExportedError("CLOSED") from None

    def close(self) -> None:
        """Close the connection, and cancel what is being sent."""
        self._channel.close()
