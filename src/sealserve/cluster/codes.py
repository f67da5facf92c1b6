"""The codes of the errors of sealserve.cluster.

The errors that code catches by their types, or that carry data, have classes, which define their codes themselves.
"""

from sealserve.errors import ErrorCode, InputError, UnavailableError, VerificationError


class ClusterCode(ErrorCode):
    """Code and family of each error; the docstring below says what the error means."""

    CONTAINER_ENDED = "container.ended", UnavailableError
    """A container ended before it was ready."""
    CONTAINER_NOT_READY = "container.not-ready", UnavailableError
    """A container was not ready in time."""

    DEPLOYMENT_BUSY = "deployment.busy", UnavailableError
    """Another command is changing the deployment; the message names its process."""
    DEPLOYMENT_RECORD = "deployment.record", InputError
    """The record of what a deployment was told to run is damaged."""

    DOCKER_SUBNET_TAKEN = "docker.subnet-taken", UnavailableError
    """The addresses of the deployment's networks are in use."""
    DOCKER_UNSAFE_FILE = "docker.unsafe-file", InputError
    """A link, or a file with several names, is where the containers need a plain file or folder."""

    KUBERNETES_CLIENT_MISSING = "kubernetes.client-missing", UnavailableError
    """The client library is not installed."""
    KUBERNETES_COREFILE = "kubernetes.corefile", InputError
    """CoreDNS's configuration cannot take the broker's name."""
    KUBERNETES_EPC = "kubernetes.epc", UnavailableError
    """The nodes have too little EPC for that many replicas."""
    KUBERNETES_RIGHTS = "kubernetes.rights", UnavailableError
    """This kubeconfig's user may not do all that a deployment needs, or the cluster does not know an object's kind."""
    KUBERNETES_ROLLOUT_REFUSED = "kubernetes.rollout-refused", VerificationError
    """The new replicas are refused, or their release does not verify; those that served go on."""
    KUBERNETES_ROLLOUT_SLOW = "kubernetes.rollout-slow", UnavailableError
    """Not every replica serves in time."""

    LOGS_INVALID_SINCE = "logs.invalid-since", InputError
    """The value of --since is neither a duration nor a time."""
    LOGS_UNKNOWN_PART = "logs.unknown-part", InputError
    """There is no such part, or it has no log yet."""

    PORT_UNUSABLE = "port.unusable", UnavailableError
    """The address is not this machine's, or the port not for this user."""

    PROCESS_NOT_READY = "process.not-ready", UnavailableError
    """A process was not ready in time."""
    PROCESS_ORPHANS = "process.orphans", UnavailableError
    """Processes of an earlier run still run, and the record does not name them."""
    PROCESS_RECORD = "process.record", InputError
    """The record of the processes that were started is not one that sealserve wrote."""

    SERVICE_FOREIGN_FILE = "service.foreign-file", InputError
    """A unit file with the same name exists, and sealserve did not write it."""
    SERVICE_NO_SYSTEMD = "service.no-systemd", UnavailableError
    """The machine does not run systemd, or the user has no service manager."""
    SERVICE_PATH = "service.path", InputError
    """A path cannot be written in a systemd unit."""
    SERVICE_SYSTEMCTL = "service.systemctl", UnavailableError
    """systemd did not do what it was asked for."""

    SUPERVISOR_NO_ANSWER = "supervisor.no-answer", UnavailableError
    """The supervisor of a deployment on this machine runs and does not answer."""
    SUPERVISOR_SETTINGS_CHANGED = "supervisor.settings-changed", UnavailableError
    """A part that has ended is not started again with settings that nobody has applied yet."""

    TARGET_BUSY = "target.busy", InputError
    """The deployment runs on another target."""
    TARGET_FOREIGN_RELEASE = "target.foreign-release", InputError
    """The release is not one that this workspace's owner built."""
    TARGET_HOST_INCOMPLETE = "target.host-incomplete", InputError
    """This machine is only the host, and something that the owner creates was not copied to it."""
    TARGET_NOT_UP = "target.not-up", InputError
    """The deployment is not running."""
    TARGET_UNSUPPORTED = "target.unsupported", InputError
    """The deployment wants something that this target cannot do."""
