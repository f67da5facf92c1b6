"""A user's client of a service: a bundle, its connections, and the calls."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from sealserve.client.bundle import ClientBundle
from sealserve.client.channel import open_channels
from sealserve.client.codes import ClientCode
from sealserve.client.predict import DEFAULT_TIMEOUT, ModelMetadata, Prediction, Predictor, VersionStatus
from sealserve.client.tensors import Array
from sealserve.serving_interface import DEFAULT_SIGNATURE


class Client:
    """A client of a service. Close it, or use it in a ``with`` statement. Safe to use from many threads.

    Args:
        bundle: What the owner of the service gave to the user.
        address: Where to connect to, ``host:port``; None for the bundle's own address.
        connections: How many connections take turns: each stays on the replica that the proxy chose.
        timeout: Seconds to wait for each connection.

    Raises:
        SealserveError: As `open_channel`.
    """

    def __init__(
        self, bundle: ClientBundle, *, address: str | None = None, connections: int = 1, timeout: float = 10.0
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
            )
        )
        self.predictor = Predictor(channels)

    @classmethod
    def from_bundle(
        cls, path: str | Path, *, address: str | None = None, connections: int = 1, timeout: float = 10.0
    ) -> Self:
        """Connect to the service of the bundle in a file.

        Args:
            path: The file, as the owner of the service sent it.
            address: Where to connect to, ``host:port``; None for the bundle's own address.
            connections: How many connections take turns.
            timeout: Seconds to wait for each connection.

        Raises:
            SealserveError: As `ClientBundle.read` and `open_channel`.
        """
        bundle = ClientBundle.read(Path(path))
        return cls(bundle, address=address, connections=connections, timeout=timeout)

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
    ) -> Prediction:
        """Run a model.

        Args:
            inputs: The arrays to send, by the signature's input names.
            model: The servable's name; None if the service has only one.
            signature: Which of the model's signatures to run.
            version: Which version to run; None for the newest.
            label: The label of the version to run, in place of ``version``.
            outputs: The outputs to return; none means all.
            timeout: Seconds to wait.

        Raises:
            InputError: `client.model-choice`: ``model`` is needed.
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
        )

    def metadata(
        self,
        model: str | None = None,
        *,
        version: int | None = None,
        label: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> ModelMetadata:
        """Return the signatures of a served model, as the service has them now; see `Predictor.metadata`."""
        return self.predictor.metadata(self._model(model), version=version, label=label, timeout=timeout)

    def status(self, model: str | None = None, *, timeout: float = DEFAULT_TIMEOUT) -> tuple[VersionStatus, ...]:
        """Return the state of a model's versions, the newest first; see `Predictor.status`."""
        return self.predictor.status(self._model(model), timeout=timeout)

    def close(self) -> None:
        """Close the connections; requests under way are cancelled."""
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _model(self, model: str | None) -> str:
        if (found := model or self.bundle.model) is None:
            names = ", ".join(sorted({model.name for model in self.bundle.models})) or "no model"
            raise ClientCode.MODEL_CHOICE.error(
                f"The model is not known: expected the name of one, and the bundle lists {names}.",
                hint="Give the model's name.",
            )
        return found
