"""The check of a model inside the enclave, before TensorFlow loads it and again afterwards.

`release build` performs the same check, but on the machine of the owner. Users do not trust the owner: a model with
operations that write files could store each input in an encrypted file, which the owner can decrypt. This check is
measured, and so are the names of the operations that the owner allows.

The owner has the key of the encrypted files. With the host's help, she could replace ``saved_model.pb`` between the
check and TensorFlow's own read. So the graph that TensorFlow loaded is checked too, before the first request.
"""

from collections.abc import Collection
from pathlib import Path

from sealserve.model.lint import lint, lint_loaded


def check_model(
    folder: Path, *, tags: Collection[str], dangerous_operations: Collection[str], loaded: bytes | None = None
) -> None:
    """Check that a model has no operation that the lint rejects, except the allowed ones.

    Args:
        folder: The SavedModel.
        tags: The tags of the graph that is served.
        dangerous_operations: Names of operations that are allowed in spite of the lint.
        loaded: The graph that TensorFlow loaded (``MetaGraphDef``). None: the model is not loaded yet, and the check
            reads the folder.

    Raises:
        InputError: The model has rejected operations, or cannot be read. See `sealserve.model.lint.lint`.
    """
    if loaded is None:
        lint(folder, tags=tags, dangerous_operations=dangerous_operations)
    else:
        lint_loaded(folder, loaded, tags=tags, dangerous_operations=dangerous_operations)
