"""Warm-up requests of a version. They run before the version is available, so that the first client waits less.

Source: tensorflow/serving, ``servables/tensorflow/saved_model_warmup.cc``, ``saved_model_warmup_util.cc`` (which file,
how many records, messages); tensorflow/tensorflow, ``core/lib/io/record_reader.cc`` (the layout of a TFRecord file).
"""

import logging
import struct
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

logger = logging.getLogger(__name__)

REQUESTS: Final = Path("assets.extra/tf_serving_warmup_requests")
MOST_RECORDS: Final = 1000

_HEADER: Final = struct.Struct("<QI")
_FOOTER_SIZE: Final = 4
_CASTAGNOLI: Final = 0x82F63B78


class WarmupError(DescribesModelError):
    """A warm-up file cannot be read, or one of its requests fails: the version does not become available."""

    code = "servable.warmup-failed"

    def __init__(self, message: str, status: Status, *, log_message: str | None = None) -> None:
        super().__init__(
            message,
            hint=f"Write {REQUESTS} again, or start with --enable_model_warmup=false.",
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
    path = folder / REQUESTS
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

    A record consists of its length, the length's checksum, the content, and the content's checksum. The checksum of the
    length is verified, which detects files of a different format. The checksum of the content is not: a damaged message
    fails to parse, and a release's files are verified as a whole.
    """
    with path.open("rb") as stream:
        offset = 0
        while header := stream.read(_HEADER.size):
            if len(header) < _HEADER.size or _masked_crc(header[:8]) != _HEADER.unpack(header)[1]:
                raise _damaged(offset)
            length = _HEADER.unpack(header)[0]
            if length > path.stat().st_size:
                raise _damaged(offset)
            record = stream.read(length)
            if len(record) < length or len(stream.read(_FOOTER_SIZE)) < _FOOTER_SIZE:
                raise _damaged(offset)
            yield record
            offset = stream.tell()


def _damaged(offset: int) -> WarmupError:
    return WarmupError(
        f"corrupted record at {offset}. Please verify your warmup data is in TFRecord format.", Status.DATA_LOSS
    )


def _masked_crc(content: bytes) -> int:
    """Return the CRC-32C of a few bytes, rotated and offset as in TFRecord files (``core/lib/hash/crc32c.h``)."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (_CASTAGNOLI if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
