"""The codes of the errors of sealserve.cli.

The errors that code catches by their types, or that carry data, have classes, which define their codes themselves.
"""

from sealserve.errors import ErrorCode, InputError, UnavailableError, VerificationError


class CliCode(ErrorCode):
    """Code and family of each error; the docstring below says what the error means."""

    CLIENT_OPTIONS = "client.options", InputError
    """The options do not fit together."""

    CLIENT_REST_OFF = "client.rest-off", InputError
    """The service has no REST API, or its address is not known."""

    CONNECTION_LOST = "connection.lost", UnavailableError
    """The other side of a connection closed it, and no other error says why."""

    DEMO_EXPOSED = "demo.exposed", VerificationError
    """Something secret is in a file of the host's, or in a log."""
    DEMO_NOT_COMPARABLE = "demo.not-comparable", InputError
    """The model's answers do not depend on its input enough to tell one from another."""
    DEMO_NOT_REFUSED = "demo.not-refused", VerificationError
    """Something that a hostile host tried was not refused, or not for the right reason."""
    DEMO_REPLICA_SILENT = "demo.replica-silent", VerificationError
    """A replica answered no request."""
    DEMO_WORKSPACE_IN_USE = "demo.workspace-in-use", InputError
    """The folder holds a deployment that is not the demo's."""
    DEMO_WRONG_ANSWER = "demo.wrong-answer", VerificationError
    """An answer is not TensorFlow's for that input."""

    DEPLOYMENT_UNCONFIRMED = "deployment.unconfirmed", InputError
    """`up` would serve a new release, and nobody can confirm that: there is no terminal, and no --yes."""

    DOCTOR_CLUSTER_IS_HOST = "doctor.cluster-is-host", InputError
    """A cluster plays the host's part, and no other."""

    FILE_REFUSED = "file.refused", UnavailableError
    """The system refuses to do something with a file, for a reason that no other error names."""

    INIT_FOLDER = "init.folder", InputError
    """A workspace cannot be in that folder: the folder does not exist, or it belongs to the model."""

    INSPECT_KEY_NEEDED = "inspect.key-needed", InputError
    """Something was asked for that only the key shows."""

    INSTALL_EXTRA = "install.extra", UnavailableError
    """The command needs Python packages that are not installed. The hint names the extra that has them."""

    MODEL_NOT_LOADABLE = "model.not-loadable", VerificationError
    """The embedded server does not load the model."""

    OUTPUT_UNWRITABLE = "output.unwritable", UnavailableError
    """Standard output cannot be written."""

    PREDICT_OUTPUT = "predict.output", UnavailableError
    """A model's output cannot be kept in a file of this format as it is."""
    PREDICT_OUTPUT_FORMAT = "predict.output-format", InputError
    """The name of the output file does not say which format it has."""

    RELEASE_NOT_COMPARABLE = "release.not-comparable", InputError
    """A release has no record of what it was made from."""

    RENDER_REPLICA = "render.replica", InputError
    """A replica's address is no HOST:PORT."""

    USAGE_ARGUMENTS = "usage.arguments", InputError
    """The command line has arguments that the command does not take, or an option without its value."""
    USAGE_COMMAND = "usage.command", InputError
    """There is no such command."""
    USAGE_MISSING = "usage.missing", InputError
    """A required option or argument is missing."""
    USAGE_OPTION = "usage.option", InputError
    """The command has no such option."""
    USAGE_VALUE = "usage.value", InputError
    """The value of an option or an argument is invalid."""
