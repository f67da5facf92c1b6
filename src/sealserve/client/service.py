"""The client of a user: it connects to the service of a client bundle, and calls it."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Self

from sealserve.client.bundle import ClientBundle
from sealserve.client.channel import open_channels
from sealserve.client.codes import ClientCode
from sealserve.client.predict import DEFAULT_TIMEOUT, ModelMetadata, Prediction, Predictor, VersionStatus
from sealserve.client.tensors import Array
from sealserve.serving_interface import DEFAULT_SIGNATURE

if TYPE_CHECKING:  # the verification of evidence is imported only for programs that use it
    from sealserve.client.attested import AttestedPolicy


class Client:
    """A client of a service. It is thread-safe. Close it, or use it in a ``with`` statement.

    Args:
        bundle: The client bundle from the owner of the service.
        address: Address of the service, ``host:port``; None means the address in the bundle.
        connections: Number of connections, which are used in turn. Each one stays on the replica that the load balancer
            chose for it.
        timeout: Seconds to wait for each connection.
        attested: The user's policy, which each replica must satisfy before an input is sent to it. None means that the
            CA in the bundle alone is trusted.

    Raises:
        SealserveError: As `open_channel`.
    """

    def __init__(
        self,
        bundle: ClientBundle,
        *,
        address: str | None = None,
        connections: int = 1,
        timeout: float = 10.0,
        attested: "AttestedPolicy | None" = None,
    ) -> None:
        self.bundle = bundle
        self._opened = ExitStack()
        channels = self._opened.enter_context(
            open_channels(
                connections,
                address or bundle.grpc,
                server_name=bundle.server_name,
                ca=bundle.ca,
                certificate=bundle.certificate,
                key=bundle.key,
                timeout=timeout,
                attested=attested,
            )
        )
        self.predictor = Predictor(channels)

    @classmethod
    def from_bundle(
        cls,
        path: str | Path,
        *,
        address: str | None = None,
        connections: int = 1,
        timeout: float = 10.0,
        attested: "AttestedPolicy | None" = None,
    ) -> Self:
        """Read a client bundle from a file, and connect to its service.

        Args:
            path: The file from the owner of the service.
            address: Address of the service, ``host:port``; None means the address in the bundle.
            connections: Number of connections, which are used in turn.
            timeout: Seconds to wait for each connection.
            attested: The user's policy, which each replica must satisfy before an input is sent to it.

        Raises:
            SealserveError: As `ClientBundle.read` and `open_channel`.
        """
        bundle = ClientBundle.read(Path(path))
        return cls(bundle, address=address, connections=connections, timeout=timeout, attested=attested)

    def predict(
        self,
        inputs: Mapping[str, Array],
        *,
        model: str | None = None,
        signature: str = DEFAULT_SIGNATURE,
        version: int | None = None,
        label: str | None = None,
        outputs: Sequence[str] = (),
        timeout: float = DEFAULT_TIMEOUT,
        traceparent: str | None = None,
    ) -> Prediction:
        """Run a model.

        Args:
            inputs: The arrays to send, by input name. Their types must match the signature.
            model: Name of the model; None means the only model in the bundle.
            signature: Name of the signature to run.
            version: Version of the model; None means the newest version.
            label: Label of the version, instead of ``version``.
            outputs: Names of the outputs to return; empty means all.
            timeout: Seconds to wait.
            traceparent: The W3C trace context of the caller's span. A service with traces continues the trace.

        Raises:
            InputError: `client.model-choice`: ``model`` is required, because the bundle does not list exactly one
                model.
            SealserveError: As `Predictor.predict`.
        """
        return self.predictor.predict(
            self._model(model),
            inputs,
            signature=signature,
            version=version,
            label=label,
            outputs=outputs,
            timeout=timeout,
            traceparent=traceparent,
        )

    def metadata(
        self,
        model: str | None = None,
        *,
        version: int | None = None,
        label: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> ModelMetadata:
        """Return the current signatures of a served model; see `Predictor.metadata`."""
        return self.predictor.metadata(self._model(model), version=version, label=label, timeout=timeout)

    def status(self, model: str | None = None, *, timeout: float = DEFAULT_TIMEOUT) -> tuple[VersionStatus, ...]:
        """Return the state of a model's versions, newest first; see `Predictor.status`."""
        return self.predictor.status(self._model(model), timeout=timeout)

    def close(self) -> None:
        """Close the connections. Requests in progress are canceled."""
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _model(self, model: str | None) -> str:
        if (found := model or self.bundle.model) is None:
            names = ", ".join(sorted({model.name for model in self.bundle.models})) or "no model"
            raise ClientCode.MODEL_CHOICE.error(
                f"The model is not specified: expected the name of a model, because the bundle lists {names}.",
                hint="Give the model's name.",
            )
        return found
