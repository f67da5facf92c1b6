"""Warm-up requests of a version. They run before the version is available, so that the first client waits less.

Source: tensorflow/serving, ``servables/tensorflow/saved_model_warmup.cc``, ``saved_model_warmup_util.cc`` (which file,
how many records, messages).
"""

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from google.protobuf.message import DecodeError

from sealserve.serving.api.examples import classify, multi_inference, regress
from sealserve.serving.api.predict import run_predict
from sealserve.serving.log import DescribesModelError
from sealserve.serving.request_errors import RequestCode, RequestError, Status
from sealserve.serving.runtime.protos import PredictionLog
from sealserve.serving.servables import Servable
from sealserve.serving_interface import WARMUP_REQUESTS
from sealserve.tf_record import DamagedRecordError, read_records

logger = logging.getLogger(__name__)

MOST_RECORDS: Final = 1000


class WarmupError(DescribesModelError):
    """A warm-up file cannot be read, or one of its requests fails: the version does not become available."""

    code = "servable.warmup-failed"

    def __init__(self, message: str, status: Status, *, log_message: str | None = None) -> None:
        super().__init__(
            message,
            hint=f"Write {WARMUP_REQUESTS} again, or start with --enable_model_warmup=false.",
            log_message=log_message,
        )
        self.status = status


def warm_up(servable: Servable, folder: Path, *, iterations: int, discreet: bool = False) -> None:
    """Run each request of the version's warm-up file; do nothing if the file does not exist.

    Args:
        servable: The loaded version.
        folder: Its folder.
        iterations: Number of runs of each request.
        discreet: Whether to omit the message of a failed request from the log, because it can name parts of the model.

    Raises:
        WarmupError: The file is not a TFRecord file of PredictionLog messages, has too many, or one of them fails.
    """
    path = folder / WARMUP_REQUESTS
    if not path.exists():
        return
    started, read, status = time.monotonic(), 0, Status.OK
    try:
        for read, record in enumerate(_records(path), 1):
            _check_count(read, path)
            _run_record(servable, record, iterations, place=f"{read} from {path}", discreet=discreet)
    except WarmupError as error:
        status = error.status
        raise
    finally:
        servable.metrics.warmed_up(folder, status, time.monotonic() - started, read)
    logger.info("ran %d warm-up requests of %s in %.2f s", read, folder, time.monotonic() - started)


def _check_count(read: int, path: Path) -> None:
    if read > MOST_RECORDS:
        raise WarmupError(
            f"Number of warmup records exceeds the maximum ({MOST_RECORDS}) at {path}", Status.INVALID_ARGUMENT
        )


def _run_record(servable: Servable, record: bytes, iterations: int, *, place: str, discreet: bool) -> None:
    try:
        log = PredictionLog.FromString(record)
    except DecodeError as error:
        raise WarmupError(f"Failed to parse warmup record {place}", Status.INVALID_ARGUMENT) from error
    for _ in range(iterations):
        try:
            _run(servable, log)
        except RequestError as error:
            raise WarmupError(
                f"Warmup record {place} failed: {error.message}",
                error.status,
                log_message=f"Warmup record {place} failed: {error.status.name}." if discreet else None,
            ) from error


def _run(servable: Servable, log: PredictionLog) -> None:
    kind = log.WhichOneof("log_type")
    if kind == "predict_log":
        run_predict(servable, log.predict_log.request)
    elif kind == "classify_log":
        classify(servable, log.classify_log.request)
    elif kind == "regress_log":
        regress(servable, log.regress_log.request)
    elif kind == "multi_inference_log":
        multi_inference(servable, log.multi_inference_log.request)
    elif kind is not None:
        number: int = PredictionLog.DESCRIPTOR.fields_by_name[kind].number
        raise RequestCode.INFERENCE_METHOD.error(f"Unsupported log_type for warmup: {number}")


def _records(path: Path) -> Iterator[bytes]:
    """Yield the records of a TFRecord file.

    The checksum of a record's content is not verified: a damaged message fails to parse, and a release's files are
    verified as a whole.
    """
    try:
        yield from read_records(path)
    except DamagedRecordError as error:
        raise WarmupError(
            f"{error}. Please verify your warmup data is in TFRecord format.", Status.DATA_LOSS
        ) from error
