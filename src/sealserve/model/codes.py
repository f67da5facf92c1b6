"""The codes of the errors of sealserve.model.

The errors that code catches by their types, or that carry data, have classes, which define their codes themselves.
"""

from sealserve.errors import ErrorCode, InputError, UnavailableError, VerificationError


class ModelCode(ErrorCode):
    """Code and family of each error; the docstring below says what the error means."""

    FETCH_DIGEST_MISMATCH = "fetch.digest-mismatch", VerificationError
    """What came is not what was pinned."""
    FETCH_INSECURE_URL = "fetch.insecure-url", InputError
    """The address is no https address."""
    FETCH_INVALID_DIGEST = "fetch.invalid-digest", InputError
    """The expected digest is no SHA-256."""
    FETCH_REFUSED = "fetch.refused", UnavailableError
    """The server answered with something else than the file."""
    FETCH_TOO_LARGE = "fetch.too-large", VerificationError
    """The file is larger than allowed."""
    FETCH_UNREACHABLE = "fetch.unreachable", UnavailableError
    """The server cannot be reached, or the connection broke."""

    AMBIGUOUS = "model.ambiguous", InputError
    """A SavedModel can be read in two ways."""
    ASSET_NAME = "model.asset-name", InputError
    """The name of an asset can lead out of the SavedModel's ``assets`` folder."""
    INVALID_NAME = "model.invalid-name", InputError
    """The name or the version cannot be those of a servable."""
    LIFTING = "model.lifting", VerificationError
    """A variable that was written has another value than the constant that it was."""
    MISSING = "model.missing", InputError
    """There is no model at that path."""
    NO_SERVE_TAG = "model.no-serve-tag", InputError
    """No graph of the SavedModel has the tags that are to be served."""
    NO_SIGNATURE = "model.no-signature", InputError
    """Nothing says what goes into the model and what comes out."""
    NOT_A_GRAPH = "model.not-a-graph", InputError
    """The file is no GraphDef."""
    NOT_A_SAVED_MODEL = "model.not-a-saved-model", InputError
    """The folder is no SavedModel."""
    NOT_FROZEN = "model.not-frozen", InputError
    """The graph has variables, and their values are elsewhere."""
    REFUSED = "model.refused", InputError
    """TensorFlow does not load the graph."""
    TENSORFLOW_MISSING = "model.tensorflow-missing", UnavailableError
    """TensorFlow is not installed."""
    UNKNOWN_NODE = "model.unknown-node", InputError
    """The graph has no node of that name."""
    UNUSABLE_FILE = "model.unusable-file", InputError
    """There is something in the folder that is no plain file or folder."""
    VARIABLES_MISSING = "model.variables-missing", InputError
    """The graph has variables, and their values are not all there."""

    SERVER_CONFIG_MISSING = "server-config.missing", InputError
    """A configuration file of the model server cannot be read."""
    SERVER_CONFIG_SYNTAX = "server-config.syntax", InputError
    """A configuration file of the model server is not in protobuf text format, or has a field that is not known."""
    SERVER_CONFIG_VALUE = "server-config.value", InputError
    """A configuration file of the model server says what the server would refuse."""
