"""What `predict` and `bench` have in common: the options that describe a request, and what they must name."""

from collections.abc import Mapping
from typing import Annotated, Final

import typer

from sealserve.cli import completion
from sealserve.cli.deferred_imports import deferred
from sealserve.terms import LARGEST_VERSION

with deferred:
    from sealserve.cli.access import Access
    from sealserve.cli.generated_input import TensorInputError
    from sealserve.client.credentials import printable
    from sealserve.client.predict import Signature

Model = Annotated[
    str | None,
    typer.Option("--model", "-m", help="The servable.", show_default="model.name", autocompletion=completion.models),
]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        "-i",
        metavar="NAME=VALUE",
        help="An input: @FILE (.npy, .npz, .json; any file for a string input), JSON, text, or random; repeat it for"
        ' each input. Or a whole request: @FILE, @- for standard input, or {"instances": [...]}',
        show_default="random values for all inputs",
    ),
]
Version = Annotated[
    int | None,
    typer.Option(min=0, max=LARGEST_VERSION, help="The version of the model.", show_default="the newest"),
]
Label = Annotated[
    str | None,
    typer.Option(help="The label of the version, in place of --version.", show_default="none",
                 autocompletion=completion.labels),
]  # fmt: skip
LONGEST_WAIT: Final = 86_400.0  # seconds; gRPC takes far longer ones for times that have passed


def find_signature(model: str, name: str, signatures: Mapping[str, Signature]) -> Signature:
    """Return the signature ``name`` of a model.

    Raises:
        TensorInputError: It has none of that name.
    """
    if name not in signatures:
        known = printable(", ".join(signatures)) or "none"
        raise TensorInputError(
            f"{printable(model)} has no signature {printable(repr(name), 80)}; it has {known}.",
            hint="Choose one with --signature.",
        )
    return signatures[name]


def find_model(model: str | None, reach: Access) -> str:
    """Return the servable's name: what the option says, else what the deployment or the bundle says.

    Raises:
        TensorInputError: Neither says one, or it is none.
    """
    name = model or reach.model
    if name is None:
        raise TensorInputError("Which model?", hint="Name it with --model.")
    if not name.isprintable():  # control characters, and bytes that are no UTF-8
        raise TensorInputError(f"{printable(name)} is no name of a model.", hint="Name it with --model.")
    return name
