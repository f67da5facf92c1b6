"""Write the classes of operations into docs/reference/model-lint.md, or check that the committed page is up to date.

Without ``--check``, the script also compares the classes with TensorFlow's registry. It lists each registered operation
without a class; add such an operation to a class in src/sealserve/model/operations.toml. `make check` uses ``--check``,
which does not import TensorFlow. A test makes the same comparison.
"""

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

from scripts.generated_files import write_or_check

from sealserve.model.operations import TENSORFLOW_VERSION, Allowed, OperationClass, class_of, classes

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "model-lint.md"
CLASSES = "## Classes\n"
HEAD = f"""
TensorFlow {TENSORFLOW_VERSION} registers {{total}} operations.

| Class | Operations | Where a model may contain them | Effect |
|---|---|---|---|
"""
WHERE = {
    Allowed.ANYWHERE: "everywhere",
    Allowed.LOADING: "where only loading runs them, not requests",
    Allowed.ASSETS: "where loading runs them on an asset",
    Allowed.VARIABLES: "where loading runs them on the variables",
    Allowed.UNUSED: "only in parts that never run",
    Allowed.NOWHERE: "nowhere",
}


def render() -> str:
    """Return the text of the page: its hand-written part, and the generated classes."""
    written = PAGE.read_text(encoding="utf-8").partition(CLASSES)[0] + CLASSES
    rows = (
        f"| [{found.name}](#{found.name}) | {len(found.operations)} | {WHERE[found.allowed]} | {found.does} |\n"
        for found in classes()
    )
    return written + HEAD.replace("{total}", f"{len(class_of()):,}") + "".join(rows) + "".join(map(_section, classes()))


def _section(found: OperationClass) -> str:
    names = textwrap.fill(" ".join(f"`{name}`" for name in found.operations), 120, break_on_hyphens=False)
    listed = f"<details><summary>All {len(found.operations)} operations</summary>\n\n{names}\n\n</details>"
    return f"\n### {found.name}\n\n{textwrap.fill(found.why, 100)}\n\n{listed}\n"


ONLY_WITH_GPU_CODE = {"_CopyFromGpuToHost", "_CopyFromHostToGpu"}
"""Operations that the package `tensorflow` registers and the package `tensorflow-cpu` does not."""


def faults() -> Iterator[str]:
    """Yield each difference between the classes and TensorFlow's registry."""
    from tensorflow.core.framework.op_def_pb2 import OpList  # noqa: PLC0415  # the import takes seconds
    from tensorflow.python.client import pywrap_tf_session  # noqa: PLC0415

    listed = OpList.FromString(pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList()))
    registered = {operation.name: operation for operation in listed.op}
    for name in sorted(set(registered) - set(class_of())):
        attributes = ", ".join(item.name for item in (*registered[name].input_arg, *registered[name].attr))
        yield f"{name} has no class (inputs and attributes: {attributes})"
    for name in sorted(set(class_of()) - set(registered) - ONLY_WITH_GPU_CODE):
        yield f"{name} is in the class {class_of()[name].name}, but TensorFlow does not register it"


def main() -> None:
    """Write the page and compare the classes with TensorFlow, or with ``--check`` only compare the page."""
    if write_or_check({PAGE: render}, description=__doc__, target="operations"):
        found = list(faults())
        for fault in found:
            print(fault, file=sys.stderr)
        raise SystemExit(bool(found))


if __name__ == "__main__":
    main()
