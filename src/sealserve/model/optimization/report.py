"""The record of an optimization, which is a file of the optimized SavedModel."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from sealserve.canonical_document import canonical_json
from sealserve.file_digest import sha256_of
from sealserve.model.codes import ModelCode
from sealserve.model.optimization.agreement import Agreement
from sealserve.model.optimization.instructions import Instructions
from sealserve.model.saved_model import plain_files
from sealserve.model_digest import model_digest
from sealserve.regular_file import read_regular
from sealserve.serving_interface import OPTIMIZATION_FILE
from sealserve.terms import Precision

_Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
_LARGEST: Final = 16 * 1024 * 1024


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Changes(_Record):
    """The changes to the graph and to the size of the model.

    Attributes:
        nodes_before: Number of nodes that run for requests, in the graph and in its functions.
        nodes_after: The same number after the optimization.
        batch_norms: Number of batch normalizations as a single operation that were replaced.
        bfloat16_nodes: Number of nodes that compute in bfloat16, without constants and conversions.
        bytes_before: Size of the model's files.
        bytes_after: Size of the optimized model's files, without the record.
    """

    nodes_before: int
    nodes_after: int
    batch_norms: int
    bfloat16_nodes: int
    bytes_before: int
    bytes_after: int


class Report(_Record):
    """What an optimization did, and how far the outputs agree.

    Attributes:
        original: Digest of the owner's model, as in release statements (`sealserve.model_digest`). For a frozen graph,
            the SHA-256 of its file.
        precision: The precision of the optimized model.
        sealserve: The version of sealserve.
        tensorflow: The version of TensorFlow.
        instructions: The widest instructions of the processor that compared the models.
        seed: The seed of the generated inputs.
        given: The names of the inputs that were given. All other inputs were generated.
        changes: The changes to the graph.
        signatures: The agreement of each output, by signature and output.
        skipped: Signatures that were not compared, with the reason.
    """

    version: Literal[1] = 1
    original: _Sha256
    precision: Precision
    sealserve: str
    tensorflow: str
    instructions: str
    seed: int
    given: tuple[str, ...]
    changes: Changes
    signatures: dict[str, dict[str, Agreement]]
    skipped: dict[str, str]

    @property
    def agreements(self) -> Iterator[tuple[str, str, Agreement]]:
        """Yield the signature, the output and the agreement of each output that was compared."""
        for signature, outputs in sorted(self.signatures.items()):
            yield from ((signature, output, found) for output, found in sorted(outputs.items()))

    def warnings(self, serving: Instructions) -> Iterator[str]:
        """Yield a sentence for each signature that was not compared, and for a precision that can be slower.

        Args:
            serving: The instructions of the processor that will serve.
        """
        if self.precision is Precision.BFLOAT16 and not serving.computes_bfloat16:
            yield (
                f"A processor with {serving} does not compute in bfloat16: it converts each number, which can be "
                "slower than float32. Choose float32 for such a processor."
            )
        for signature, reason in self.skipped.items():
            yield f"The signature {signature!r} was not compared: {reason}."

    def to_bytes(self) -> bytes:
        """Return the content of the record's file."""
        return canonical_json(self.model_dump(mode="json"))


def find_report(folder: Path) -> Report | None:
    """Return the record in the SavedModel ``folder``, or None if the model was not optimized.

    Raises:
        InputError: `model.optimization-record`: The record is damaged, or a newer version of sealserve wrote it.
    """
    path = folder / OPTIMIZATION_FILE
    if not path.exists():
        return None
    try:
        return Report.model_validate_json(read_regular(path, limit=_LARGEST))
    except ValidationError as error:
        raise ModelCode.OPTIMIZATION_RECORD.error(
            f"{path} is not a record of an optimization: {error.errors()[0]['msg']}.",
            hint="Optimize the original model again.",
        ) from error


def digest_of_model(model: Path) -> str:
    """Return the digest of a SavedModel, as in release statements and receipts, or the SHA-256 of a frozen graph."""
    if model.is_file():
        return sha256_of(model)
    files = {}
    for path in plain_files(model):
        files[path.relative_to(model).as_posix()] = (path.stat().st_size, sha256_of(path))
    return model_digest(files)
