"""Error codes of sealserve.cluster.

An error that code catches by type, or that carries data, has its own class, which defines the code.
"""

from sealserve.errors import ErrorCode, InputError, UnavailableError, VerificationError


class ClusterCode(ErrorCode):
    """Code and family of each error. The docstring below a code gives its meaning."""

    CONTAINER_ENDED = "container.ended", UnavailableError
    """A container ended before it was ready."""
    CONTAINER_NOT_READY = "container.not-ready", UnavailableError
    """A container was not ready before the timeout."""

    DEPLOYMENT_BUSY = "deployment.busy", UnavailableError
    """A different command is changing the deployment. The message names its process."""
    DEPLOYMENT_RECORD = "deployment.record", InputError
    """The record of the last requested state of the deployment is damaged."""

    DOCKER_SUBNET_TAKEN = "docker.subnet-taken", UnavailableError
    """The IP addresses of the deployment's Docker networks are already in use."""
    DOCKER_UNSAFE_FILE = "docker.unsafe-file", InputError
    """A link, or a file with several hard links, is in the place of a regular file or folder for the containers."""

    KUBERNETES_CLIENT_MISSING = "kubernetes.client-missing", UnavailableError
    """The Kubernetes client library for Python is not installed."""
    KUBERNETES_COREFILE = "kubernetes.corefile", InputError
    """The broker's name cannot be added to the configuration of CoreDNS."""
    KUBERNETES_EPC = "kubernetes.epc", UnavailableError
    """The nodes have too little EPC for the number of replicas."""
    KUBERNETES_GRPC_READINESS = "kubernetes.grpc-readiness", UnavailableError
    """The cluster does not support the readiness probe of `kubernetes.grpc_readiness`."""
    KUBERNETES_RIGHTS = "kubernetes.rights", UnavailableError
    """The kubeconfig's user lacks permissions, or the cluster does not support the kind of an object."""
    KUBERNETES_ROLLOUT_REFUSED = "kubernetes.rollout-refused", VerificationError
    """The broker rejects the new replicas, or their release is invalid. The previous replicas continue to serve."""
    KUBERNETES_ROLLOUT_SLOW = "kubernetes.rollout-slow", UnavailableError
    """Not every replica serves before the timeout."""

    LOGS_INVALID_SINCE = "logs.invalid-since", InputError
    """The value of --since is neither a duration nor a time."""
    LOGS_UNKNOWN_PART = "logs.unknown-part", InputError
    """The part does not exist, or it has no log yet."""

    PORT_UNUSABLE = "port.unusable", UnavailableError
    """The address does not belong to this machine, or this user may not listen on the port."""

    PROCESS_NOT_READY = "process.not-ready", UnavailableError
    """A process was not ready before the timeout."""
    PROCESS_ORPHANS = "process.orphans", UnavailableError
    """Processes of an earlier run are still running, and the record does not list them."""
    PROCESS_RECORD = "process.record", InputError
    """The record of started processes is damaged, or sealserve did not write it."""

    SERVICE_FOREIGN_FILE = "service.foreign-file", InputError
    """A unit file with the same name exists, and sealserve did not write it."""
    SERVICE_NO_SYSTEMD = "service.no-systemd", UnavailableError
    """The machine does not run systemd, or the user has no service manager."""
    SERVICE_PATH = "service.path", InputError
    """A path contains characters that a systemd unit cannot represent."""
    SERVICE_SYSTEMCTL = "service.systemctl", UnavailableError
    """A systemctl command failed."""

    SUPERVISOR_NO_ANSWER = "supervisor.no-answer", UnavailableError
    """The supervisor of a local deployment runs but does not answer."""
    SUPERVISOR_SETTINGS_CHANGED = "supervisor.settings-changed", UnavailableError
    """A part that ended is not restarted, because its settings have changed and `sealserve up` has not applied them."""

    TARGET_BUSY = "target.busy", InputError
    """The deployment runs on a different target."""
    TARGET_FOREIGN_RELEASE = "target.foreign-release", InputError
    """The owner of this workspace did not build the release."""
    TARGET_HOST_INCOMPLETE = "target.host-incomplete", InputError
    """This machine is only the host, and a file that the owner creates is missing."""
    TARGET_NOT_UP = "target.not-up", InputError
    """The deployment is not running."""
    TARGET_UNSUPPORTED = "target.unsupported", InputError
    """The target does not support a setting of the deployment."""
