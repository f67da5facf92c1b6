"""Write the names of all operations that TensorFlow registers to src/sealserve/model/known_operations.txt.

It needs TensorFlow, which `make check` does not import: a test compares the file instead.
"""

from pathlib import Path

FILE = Path(__file__).resolve().parent.parent / "src" / "sealserve" / "model" / "known_operations.txt"


def main() -> None:
    """Write the file, one name a line."""
    from tensorflow.core.framework.op_def_pb2 import OpList  # noqa: PLC0415  # it takes seconds
    from tensorflow.python.client import pywrap_tf_session  # noqa: PLC0415

    registered = OpList.FromString(pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList()))
    FILE.write_text("".join(f"{name}\n" for name in sorted(operation.name for operation in registered.op)), "ascii")


if __name__ == "__main__":
    main()
