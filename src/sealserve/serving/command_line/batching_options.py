"""The checked settings of ``BatchingParameters``, with TensorFlow Serving's defaults.

Source: tensorflow/serving, ``servables/tensorflow/bundle_factory_util.cc``; tensorflow/tensorflow,
``core/kernels/batching_util/shared_batch_scheduler.h`` (defaults).
"""

from dataclasses import dataclass
from typing import Final

from sealserve.errors import InputError
from sealserve.serving.command_line.parameters_pb2 import BatchingParameters
from sealserve.serving.request_errors import Status

PARAMETERS_FILE: Final = "batching_params.pbtxt"

_MAX_BATCH_SIZE: Final = 1000
_MAX_ENQUEUED_BATCHES: Final = 10


class BatchingParametersError(InputError):
    """The batching parameters are invalid or contradict each other."""

    code = "batching.parameters"
    status = Status.INVALID_ARGUMENT


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchingOptions:
    """The settings for running several requests together.

    Args:
        max_batch_size: Maximum number of rows of a request, and of a batch unless large requests are split.
        timeout: Seconds after which a batch runs that is not full.
        max_enqueued_batches: Maximum number of waiting batches.
        allowed_batch_sizes: Sizes to which batches are padded; empty for any size.
        pad_variable_length_inputs: Whether inputs of different shapes are padded to the same shape.
        max_execution_batch_size: Maximum number of rows of a batch; less than ``max_batch_size`` if large requests are
            split.
    """

    max_batch_size: int = _MAX_BATCH_SIZE
    timeout: float = 0.0
    max_enqueued_batches: int = _MAX_ENQUEUED_BATCHES
    allowed_batch_sizes: tuple[int, ...] = ()
    pad_variable_length_inputs: bool = False
    max_execution_batch_size: int = _MAX_BATCH_SIZE

    @classmethod
    def of(cls, parameters: BatchingParameters) -> "BatchingOptions":
        """Return the settings in ``parameters``, with the defaults of TensorFlow Serving.

        Raises:
            BatchingParametersError: The parameters are invalid or contradict each other.
        """
        largest = positive(parameters, "max_batch_size", _MAX_BATCH_SIZE)
        sizes = tuple(parameters.allowed_batch_sizes)
        execution = largest
        if parameters.enable_large_batch_splitting.value:
            execution = positive(parameters, "max_execution_batch_size", largest)
            if execution > largest:
                raise BatchingParametersError(
                    f"max_execution_batch_size ({execution}) must not exceed max_batch_size ({largest})."
                )
        if sizes and sizes[-1] != largest and sizes[-1] != execution:
            raise BatchingParametersError(
                "Last entry in allowed_batch_sizes must match max_batch_size; last entry was"
                f" {sizes[-1]}; expected {largest}"
            )
        if list(sizes) != sorted(set(sizes)) or (sizes and sizes[0] < 1):
            raise BatchingParametersError("allowed_batch_sizes must be positive and in increasing order.")
        if parameters.batch_timeout_micros.value < 0:
            raise BatchingParametersError("batch_timeout_micros must not be negative.")
        return cls(
            max_batch_size=largest,
            timeout=parameters.batch_timeout_micros.value / 1e6,
            max_enqueued_batches=positive(parameters, "max_enqueued_batches", _MAX_ENQUEUED_BATCHES),
            allowed_batch_sizes=sizes,
            pad_variable_length_inputs=parameters.pad_variable_length_inputs,
            max_execution_batch_size=execution,
        )


def positive(parameters: BatchingParameters, name: str, default: int) -> int:
    """Return the parameter ``name``, or ``default`` if it is not set.

    Raises:
        BatchingParametersError: The value is less than one.
    """
    if not parameters.HasField(name):
        return default
    value = int(getattr(parameters, name).value)
    if value < 1:
        raise BatchingParametersError(f"{name} must be positive; was {value}")
    return value
