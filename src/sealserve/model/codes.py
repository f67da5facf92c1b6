"""Error codes of sealserve.model.

An error that code catches by its type, or that carries data, has its own class. Such a class defines its code itself.
"""

from sealserve.errors import ErrorCode, InputError, UnavailableError, VerificationError


class ModelCode(ErrorCode):
    """Code and family of each error. The docstring below a member describes the error."""

    FETCH_DIGEST_MISMATCH = "fetch.digest-mismatch", VerificationError
    """The downloaded file does not have the expected SHA-256."""
    FETCH_INSECURE_URL = "fetch.insecure-url", InputError
    """The URL is not a valid https URL, or redirects to a URL that is not https."""
    FETCH_INVALID_DIGEST = "fetch.invalid-digest", InputError
    """The expected digest is not a SHA-256 in hexadecimal."""
    FETCH_REFUSED = "fetch.refused", UnavailableError
    """The server did not return the file: it answered with an error, or with too many redirects."""
    FETCH_TOO_LARGE = "fetch.too-large", VerificationError
    """The file is larger than the limit."""
    FETCH_UNREACHABLE = "fetch.unreachable", UnavailableError
    """The server cannot be reached, or the connection broke."""

    ALREADY_OPTIMIZED = "model.already-optimized", InputError
    """The SavedModel is the result of an optimization, so its original cannot be recorded."""
    AMBIGUOUS = "model.ambiguous", InputError
    """The SavedModel is ambiguous: two readers could see different models."""
    ASSET_NAME = "model.asset-name", InputError
    """The name of an asset is not a plain file name in the SavedModel's ``assets`` folder."""
    INVALID_NAME = "model.invalid-name", InputError
    """The name or the version is not valid for a servable."""
    LIFTING = "model.lifting", VerificationError
    """A constant was converted into a variable, and the variable was written with a different value."""
    MISSING = "model.missing", InputError
    """The path of the model does not exist."""
    NO_SERVE_TAG = "model.no-serve-tag", InputError
    """The SavedModel does not contain a graph with the requested tags."""
    NO_SIGNATURE = "model.no-signature", InputError
    """The inputs and outputs of the model are unknown: it has no signature, or they were not given."""
    NOTHING_TO_OPTIMIZE = "model.nothing-to-optimize", InputError
    """The optimization would not change the model, or no operation of the model can compute in bfloat16."""
    NOT_A_GRAPH = "model.not-a-graph", InputError
    """The file is not a GraphDef in binary form (a frozen graph)."""
    NOT_A_SAVED_MODEL = "model.not-a-saved-model", InputError
    """The folder is not a SavedModel in the supported binary form."""
    NOT_FROZEN = "model.not-frozen", InputError
    """The graph is not frozen: it has variables whose values are not in the file."""
    NOT_OPTIMIZABLE = "model.not-optimizable", InputError
    """The model cannot be optimized: TensorFlow fails, it is too large, or it has operations that the lint rejects."""
    OPTIMIZATION_DIFFERS = "model.optimization-differs", VerificationError
    """The outputs of the optimized model agree less with the original's than the thresholds require."""
    OPTIMIZATION_INPUTS = "model.optimization-inputs", InputError
    """The inputs for the comparison of an optimized model cannot be read, or the model does not accept them."""
    OPTIMIZATION_RECORD = "model.optimization-record", InputError
    """The record of an optimization in a SavedModel is damaged, or a newer version of sealserve wrote it."""
    OPTIMIZATION_UNPROVEN = "model.optimization-unproven", InputError
    """An output could not be compared, for example without inputs, or a threshold applies to no output."""
    REFUSED = "model.refused", InputError
    """TensorFlow cannot load the graph."""
    TENSORFLOW_MISSING = "model.tensorflow-missing", UnavailableError
    """TensorFlow is not installed."""
    UNKNOWN_NODE = "model.unknown-node", InputError
    """The graph does not have a node with this name."""
    UNUSABLE_FILE = "model.unusable-file", InputError
    """The model's folder contains an entry that is neither a regular file nor a folder."""
    VARIABLES_MISSING = "model.variables-missing", InputError
    """The graph has variables, but files with their values are missing."""

    SERVER_CONFIG_MISSING = "server-config.missing", InputError
    """A configuration file of the model server cannot be read."""
    SERVER_CONFIG_SYNTAX = "server-config.syntax", InputError
    """A configuration file of the model server is not valid protobuf text, or has an unknown field."""
    SERVER_CONFIG_VALUE = "server-config.value", InputError
    """A configuration file of the model server has a value that the server would reject."""
