"""``predict --save-receipt``: a folder with a receipt and everything that a later verification needs."""

from pathlib import Path
from typing import Any

from sealserve.cli import console
from sealserve.cli.codes import CliCode
from sealserve.cli.deferred_imports import deferred

with deferred:
    from datetime import UTC, datetime

    from sealserve.atomic_file import PRIVATE, OutputExistsError, write_file
    from sealserve.client.predict import Prediction, Predictor
    from sealserve.client.rest import RestPredictor
    from sealserve.whole_folder import appearing


def check(folder: Path | None, *, require_attested: bool, rest: bool) -> None:
    """Check the options before a request is sent.

    Raises:
        InputError: `client.options`: The evidence is not verified, or the request uses REST.
        OutputExistsError: The folder exists.
    """
    if folder is None:
        return
    if not require_attested or rest:
        raise CliCode.CLIENT_OPTIONS.error(
            "--save-receipt needs --require-attested, and does not support --rest.",
            hint="Add --require-attested, and leave out --rest.",
        )
    if folder.exists():
        raise OutputExistsError(f"{folder} already exists.", hint="Give another folder.")


def wanted(folder: Path | None) -> dict[str, Any]:
    """Return the argument of `Predictor.predict` that requests a receipt."""
    return {} if folder is None else {"receipt": True}


def keep(folder: Path | None, answer: Prediction, predictor: Predictor | RestPredictor) -> None:
    """Verify the receipt of an answer, and write it with the messages and the evidence.

    Raises:
        VerificationError: The receipt is invalid. Nothing is written.
    """
    if folder is None or answer.receipt is None or not isinstance(predictor, Predictor):
        return
    from sealserve.client.receipts import verify_received  # noqa: PLC0415  # only for a receipt

    attested = predictor.channels[answer.channel].attested
    replicas = () if attested is None else attested.replicas.current(now=datetime.now(UTC))
    _, replica = verify_received(answer.receipt, replicas)
    with appearing(folder, mode=0o700) as made:
        for name, content in (
            ("receipt.jws", answer.receipt.receipt.encode()),
            ("request.bin", answer.receipt.request),
            ("response.bin", answer.receipt.response),
            ("evidence.json", replica.bundle()),
        ):
            write_file(made / name, content, mode=PRIVATE)


def report(folder: Path | None) -> None:
    """Print where the receipt is."""
    if folder is not None:
        console.out.print(f"Wrote the receipt to {folder}. It is valid.")
