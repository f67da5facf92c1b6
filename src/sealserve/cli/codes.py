"""The codes of the errors of sealserve.cli.

The errors that code catches by their types, or that carry data, have classes, which define their codes themselves.
"""

from sealserve.errors import ErrorCode, InputError, UnavailableError, VerificationError


class CliCode(ErrorCode):
    """Code and family of each error. The docstring below a code explains the error."""

    BROKER_OWNER_MACHINE = "broker.owner-machine", InputError
    """The command needs files of the owner, so it does not support a remote broker."""

    CLIENT_NO_POLICY = "client.no-policy", InputError
    """The command verifies a service, but the user's policy file does not exist."""

    CLIENT_OPTIONS = "client.options", InputError
    """The options of the command contradict each other, or one of two required options is missing."""

    CLIENT_REST_OFF = "client.rest-off", InputError
    """The service does not offer the REST API, or the address of the REST API is unknown."""

    CONNECTION_LOST = "connection.lost", UnavailableError
    """The other side closed a network connection, and no other error explains why."""

    DEMO_EXPOSED = "demo.exposed", VerificationError
    """A file of the host, or a log, contains secret data, or a TLS key of the service is outside of the enclaves."""
    DEMO_NOT_COMPARABLE = "demo.not-comparable", InputError
    """The model returns the same answer to different inputs, so the demo cannot detect a wrong answer."""
    DEMO_NOT_REFUSED = "demo.not-refused", VerificationError
    """An attack of the demo was not refused, or was refused for the wrong reason."""
    DEMO_REPLICA_SILENT = "demo.replica-silent", VerificationError
    """A replica of the demo did not answer any request."""
    DEMO_WORKSPACE_IN_USE = "demo.workspace-in-use", InputError
    """The folder contains a deployment that was not created by the demo."""
    DEMO_WRONG_ANSWER = "demo.wrong-answer", VerificationError
    """A served answer differs from TensorFlow's answer to the same input."""

    DEPLOYMENT_UNCONFIRMED = "deployment.unconfirmed", InputError
    """`up` needs a confirmation to serve another release, but it has neither a terminal nor the option --yes."""

    DOCTOR_CLUSTER_IS_HOST = "doctor.cluster-is-host", InputError
    """A Kubernetes cluster can be checked only in the role host, and --report does not support it."""

    FILE_REFUSED = "file.refused", UnavailableError
    """The operating system refused an operation on a file, and no other error explains why."""

    INIT_FOLDER = "init.folder", InputError
    """The folder cannot contain a workspace: it does not exist, is not a folder, or belongs to the model."""

    INSPECT_KEY_NEEDED = "inspect.key-needed", InputError
    """The requested check of a sealed file is possible only with its key."""

    INSTALL_EXTRA = "install.extra", UnavailableError
    """The command needs Python packages that are not installed. The hint names the extra that has them."""

    MODEL_NOT_LOADABLE = "model.not-loadable", VerificationError
    """The embedded server cannot load the model."""

    OUTPUT_UNWRITABLE = "output.unwritable", UnavailableError
    """Standard output cannot be written, for example because the disk is full."""

    PREDICT_OUTPUT = "predict.output", UnavailableError
    """The format of the output file cannot store a value of the model's output."""
    PREDICT_OUTPUT_FORMAT = "predict.output-format", InputError
    """The name of the output file does not end in a supported format, or the format cannot store several outputs."""

    RELEASE_NOT_COMPARABLE = "release.not-comparable", InputError
    """A release cannot be compared, because no record of its settings and models exists."""

    RENDER_REPLICA = "render.replica", InputError
    """The address of a replica is not of the form HOST:PORT."""

    USAGE_ARGUMENTS = "usage.arguments", InputError
    """The command line has unexpected arguments, options that exclude each other, or an option without its value."""
    USAGE_COMMAND = "usage.command", InputError
    """The command does not exist."""
    USAGE_MISSING = "usage.missing", InputError
    """A required option or argument is missing, or the answer to a question."""
    USAGE_OPTION = "usage.option", InputError
    """The command does not have this option."""
    USAGE_VALUE = "usage.value", InputError
    """The value of an option or an argument is invalid."""
