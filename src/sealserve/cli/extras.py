"""Which extra of the package has a dependency. The base installation is the client alone."""

from typing import Final

from sealserve.cli.codes import CliCode
from sealserve.errors import SealserveError

PACKAGES: Final = {
    "aiohttp": ("aiohttp", "owner"),
    "alembic": ("alembic", "owner"),
    "cbor2": ("cbor2", "owner"),
    "httpx": ("httpx", "owner"),
    "kubernetes": ("kubernetes", "kubernetes"),
    "model_signing": ("model-signing", "model-signing"),
    "pkcs11": ("python-pkcs11", "pkcs11"),
    "prometheus_client": ("prometheus-client", "owner"),
    "psycopg": ("psycopg", "postgresql"),
    "sqlalchemy": ("SQLAlchemy", "owner"),
    "tensorflow": ("tensorflow", "server"),
    "tensorflow_serving": ("tensorflow-serving-api", "server"),
    "tomli_w": ("tomli-w", "owner"),
    "yaml": ("PyYAML", "owner"),
}
"""The package that has each module, and its extra in ``pyproject.toml``."""
_WHOLE: Final = {"demo": "server"}
"""The extra that has all packages of a verb. Without it, the first error would name a smaller extra."""


def missing_extra(error: ModuleNotFoundError, verb: str) -> SealserveError | None:
    """Return the error that names the extra to install, or None if the module is of no extra.

    Args:
        error: What an import raised.
        verb: The verb that runs.
    """
    found = PACKAGES.get((error.name or "").partition(".")[0])
    if found is None:
        return None
    package, extra = found
    extra = _WHOLE.get(verb, extra)
    return CliCode.INSTALL_EXTRA.error(
        f"`sealserve {verb}` needs the Python package {package}, which is not installed.",
        hint=f"Install the extra {extra!r}: `pip install 'sealserve[{extra}]'`. In a checkout: `make setup`.",
    )
