"""Options that describe a request, shared by `predict` and `bench`, and the checks of these options."""

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
    typer.Option(
        "--model",
        "-m",
        help="Name of the model",
        show_default="model.name, or the bundle's only model",
        autocompletion=completion.models,
    ),
]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        "-i",
        metavar="NAME=VALUE",
        help="Input. VALUE is @FILE (.npy, .npz, .json; any file for a string input), JSON, text, or random; repeat "
        "the option for each input. Instead of NAME=VALUE, a complete request: @FILE, @- for standard input, or "
        '{"instances": [...]}',
        show_default="random values for all inputs",
    ),
]
Version = Annotated[
    int | None,
    typer.Option(
        min=0, max=LARGEST_VERSION, metavar="NUMBER", help="Version of the model", show_default="the newest version"
    ),
]
Label = Annotated[
    str | None,
    typer.Option(help="Label of the version, such as stable, instead of --version", show_default="none",
                 autocompletion=completion.labels),
]  # fmt: skip
LONGEST_WAIT: Final = 86_400.0  # seconds; gRPC treats much longer timeouts as already expired


def find_signature(model: str, name: str, signatures: Mapping[str, Signature]) -> Signature:
    """Return the signature ``name`` of a model.

    Raises:
        TensorInputError: The model does not have this signature.
    """
    if name not in signatures:
        known = printable(", ".join(signatures)) or "none"
        raise TensorInputError(
            f"The signature {printable(repr(name), 80)} does not exist in the model {printable(model)}; its signatures "
            f"are {known}.",
            hint="Choose a signature with --signature.",
        )
    return signatures[name]


def find_model(model: str | None, reach: Access) -> str:
    """Return the model's name from the option, else from the deployment or the bundle.

    Raises:
        TensorInputError: No model is named, or the name is invalid.
    """
    name = model or reach.model
    if name is None:
        raise TensorInputError(
            "The model is not specified: expected --model, or a deployment or bundle with exactly one model.",
            hint="Name the model with --model.",
        )
    if not name.isprintable():  # control characters, and bytes that are not UTF-8
        raise TensorInputError(
            f"The name of the model is invalid: expected printable characters, got {printable(name)}.",
            hint="Name the model with --model.",
        )
    return name
