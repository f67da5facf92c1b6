"""The traces of a server: which requests are traced, and where the spans go. Imported only if traces are on.

A request is traced if its client records the trace (the sampled flag of ``traceparent``), or, without a valid
``traceparent``, by chance. A rate limits the traced requests of all clients together, because each client can set the
flag on each request. The context of the client decides nothing else.
"""

import logging
import random
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Final

from sealserve import __version__
from sealserve.pki.certificate import parse_chain
from sealserve.regular_file import read_regular
from sealserve.serving.command_line.options import TracesOptions
from sealserve.serving.file_list import FileList
from sealserve.serving.metrics import SpanCounts
from sealserve.serving.rate_limit import Bucket, Rate
from sealserve.serving.spans import Begin, Headers, RequestTrace, Stages
from sealserve.tracing.collector_link import CollectorLink
from sealserve.tracing.exporter import SpanExporter
from sealserve.tracing.span import Attribute, Attributes
from sealserve.tracing.trace_context import TRACEPARENT, TraceContext

logger = logging.getLogger(__name__)

SERVICE_NAME: Final = "sealserve-model-server"
_HTTP_ATTRIBUTES: Final[Mapping[str, Attributes]] = {
    verb: {Attribute.HTTP_METHOD: "POST", Attribute.HTTP_ROUTE: f"/v1/models/{{model}}:{verb}"}
    for verb in ("predict", "classify", "regress")
}
_INFER: Final[Attributes] = {Attribute.HTTP_METHOD: "POST", Attribute.HTTP_ROUTE: "/v2/models/{model}/infer"}


class Tracing:
    """The traces of one server.

    Args:
        options: The options.
    """

    def __init__(self, options: TracesOptions) -> None:
        self._options = options
        self._bucket = Bucket(Rate(per_second=options.per_second, burst=options.per_second), time.monotonic())
        self._lock = threading.Lock()
        self._exporter = SpanExporter()
        self._untraced = 0
        self.stages = Stages(self._exporter)
        """The spans of the start, and of later loads."""

    def connect(self, files: FileList | None, *, instance: str) -> None:
        """Begin to send spans. Spans from before, such as the attestation, are sent too.

        Args:
            files: The list of the files that may be loaded.
            instance: The name of this process in the metadata of its answers.

        Raises:
            SealserveError: The file with the collector's CA certificates cannot be used.
        """
        options, ca = self._options, None
        if options.ca_file is not None:
            listed = files is not None and files.relative(options.ca_file) is not None
            ca = files.read_file(options.ca_file) if files is not None and listed else read_regular(options.ca_file)
            parse_chain(ca, source=f"--traces_ca_file {options.ca_file}")
        if not options.collector.tls:
            logger.warning("DANGEROUS: sending traces in plaintext; anyone on the network can read and change them")
        logger.info("sending traces to %s", options.collector.address)
        self._exporter.start(
            CollectorLink(options.collector, ca),
            {"service.name": SERVICE_NAME, "service.version": __version__, "service.instance.id": instance},
        )

    def grpc(self, method: str) -> Begin:
        """Return the decision for requests of a gRPC method, such as ``tensorflow.serving.PredictionService/Predict``.

        Args:
            method: The method's full name.
        """
        attributes = {Attribute.RPC_SYSTEM: "grpc", Attribute.RPC_METHOD: method}
        return lambda metadata: self._begin(metadata, attributes)

    def http(self, path: str, contexts: Sequence[str]) -> RequestTrace | None:
        """Return the trace of a POST request to the REST API, or None if it is not traced.

        Args:
            path: The path of the request, which can be any text. Only its end is used.
            contexts: The values of its headers ``traceparent``.
        """
        attributes = _INFER if path.endswith("/infer") else _HTTP_ATTRIBUTES.get(path.rpartition(":")[2].lower())
        return None if attributes is None else self._begin([(TRACEPARENT, text) for text in contexts], attributes)

    def _begin(self, headers: Headers, attributes: Attributes) -> RequestTrace | None:
        parent = TraceContext.find(headers)
        if not (random.random() < self._options.ratio if parent is None else parent.sampled):  # noqa: S311  # not a secret
            return None
        with self._lock:
            if self._bucket.wait(time.monotonic()):
                self._untraced += 1
                return None
            self._bucket.take()
        return RequestTrace(self._exporter, parent, attributes)

    def counts(self) -> SpanCounts:
        """Return the numbers for the metrics."""
        return SpanCounts(
            exported=self._exporter.exported, dropped=self._exporter.dropped, untraced_requests=self._untraced
        )

    def close(self) -> None:
        """Send the waiting spans within a few seconds, and end."""
        self.stages.end_start(failed=True)  # no effect if the start has ended
        self._exporter.close()
