"""Error codes of the package `sealserve.proxy`."""

from sealserve.errors import ErrorCode, InputError, UnavailableError, VerificationError


class ProxyCode(ErrorCode):
    """Code and error family of each cause. The docstring below a member is its meaning on the reference page."""

    BUSY = "proxy.busy", UnavailableError
    """The proxy has its maximum number of connections."""
    FIRST_BYTES = "proxy.first-bytes", InputError
    """A client of the proxy sent neither HTTP/2 without TLS nor HTTP/1.1, or sent no complete request in time."""
    HOST = "proxy.host", VerificationError
    """A request names another host than this machine. A web page in a browser may have sent it."""
    LISTEN = "proxy.listen", InputError
    """The address to listen on is invalid, or other users can replace the Unix socket."""
    LISTEN_ANYWHERE = "proxy.listen-anywhere", InputError
    """The proxy would listen without TLS on an address that other machines can reach."""
    LISTEN_FAILED = "proxy.listen-failed", UnavailableError
    """The proxy cannot listen on the address: it is in use, its folder does not exist, or the permission is missing."""
    REPLICA_AWAY = "proxy.replica-away", UnavailableError
    """The proxy reached a replica, but further connections reached only other replicas, so it was not verified."""
    REST_UNKNOWN = "proxy.rest-unknown", InputError
    """A client uses HTTP/1.1, but the proxy has no address of the service's REST API."""
    SERVICE_LATE = "proxy.service-late", UnavailableError
    """The service did not complete the connection and its verification in time."""
