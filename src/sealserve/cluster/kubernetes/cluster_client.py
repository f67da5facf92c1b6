"""A cluster's API, as far as a deployment needs it, through the official client.

Source: https://kubernetes.io/docs/reference/using-api/server-side-apply/, https://github.com/kubernetes-client/python
(``kubernetes.dynamic``).
"""

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from queue import Queue
from typing import Any, Final

from yaml import YAMLError

from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.kubernetes.render_context import APPLICATION, Manifest
from sealserve.cluster.logs.merge import LogLine, Timed, followed
from sealserve.cluster.logs.selection import LogSelection
from sealserve.errors import SealserveError, UnavailableError
from sealserve.http_answer import HttpEncodingError, HttpSizeError, HttpSlowError

_NOT_FOUND: Final = 404
_SECONDS: Final = 30  # for the connection, and then for each part of an answer
_WHOLE_SECONDS: Final = 120  # for a whole answer, and for one more attempt
_LONGEST_REASON: Final = 2000  # characters; the server chooses them
_UNREAD_LINES: Final = 1000  # of logs, until whoever reads them catches up
_NO_FILE: Final = os.path.join(os.devnull, "none")  # noqa: PTH118  # it can be neither read nor written
"""Where the library keeps what kinds of objects there are: in the shared temporary folder anybody could write it."""
_LIMITS: Final = (HttpEncodingError, HttpSizeError, HttpSlowError)
_REVIEWS: Final = "authorization.k8s.io/v1"
_LEFT_OUT: Final = ("managedFields", "resourceVersion", "uid", "generation", "creationTimestamp")


class ClusterUnreachableError(UnavailableError):
    """The cluster's API server cannot be reached, or there is no kubeconfig file for one."""

    code = "kubernetes.unreachable"


class ClusterRefusedError(UnavailableError):
    """The API server refuses a request."""

    code = "kubernetes.refused"


class KindUnknownError(ClusterRefusedError):
    """The cluster has no objects of this kind: what defines it is not installed, or too old."""

    code = "kubernetes.unknown-kind"


@dataclass(frozen=True, slots=True)
class ObjectName:
    """Where an object is."""

    api_version: str
    kind: str
    namespace: str
    name: str

    @classmethod
    def of(cls, made: Mapping[str, Any]) -> "ObjectName":
        """Return where ``made`` is."""
        metadata = made["metadata"]
        return cls(made["apiVersion"], made["kind"], metadata.get("namespace", ""), metadata["name"])


class ClusterClient:
    """A cluster.

    Args:
        kubeconfig: The path of a kubeconfig file; None for the environment's (KUBECONFIG, ~/.kube/config).
        context: A context of it; None for the current one.

    Raises:
        UnavailableError: `kubernetes.client-missing`: The library is missing.
        ClusterUnreachableError: There is no such file or context, or nobody answers.
    """

    def __init__(self, kubeconfig: str | None = None, context: str | None = None) -> None:
        try:
            from kubernetes.config.config_exception import ConfigException  # noqa: PLC0415
            from urllib3.exceptions import HTTPError  # noqa: PLC0415

            from kubernetes import client, config, dynamic  # noqa: PLC0415  # an extra, and slow to import
            from sealserve.cluster.kubernetes.bounded_api import Retries, bound  # noqa: PLC0415
        except ImportError as error:
            raise ClusterCode.KUBERNETES_CLIENT_MISSING.error(
                "The Kubernetes client is not installed.",
                hint="Run `pip install 'sealserve[kubernetes]'`, or `make setup` in a checkout.",
            ) from error
        self._errors = (client.ApiException, dynamic.exceptions.DynamicApiError)

        class Client(dynamic.DynamicClient):  # type: ignore[misc]  # the library has no types
            """One that does not wait without end while it asks what kinds of objects there are."""

            def request(self, method: str, path: str, body: Any = None, **params: Any) -> Any:
                return super().request(method, path, body, **{"_request_timeout": _SECONDS, **params})

        try:
            settings = client.Configuration()
            settings.retries = Retries.one()
            # The library reads KUBECONFIG once, when it is imported.
            found = kubeconfig or os.environ.get("KUBECONFIG")
            api = config.new_client_from_config(found, context, client_configuration=settings)
            streams = client.ApiClient(api.configuration)
        except (ConfigException, YAMLError, ValueError, TypeError, AttributeError, KeyError, OSError) as error:
            # What the client says of a file may quote it; of one that is no kubeconfig only the kind of error is told.
            reason = str(error).rstrip(".") if isinstance(error, ConfigException) else type(error).__name__
            raise ClusterUnreachableError(
                f"There is no usable kubeconfig: {reason}.", hint="Set KUBECONFIG to the cluster's file."
            ) from error
        # Limit what a hostile server can make this process read, before the first request.
        bound(api.rest_client.pool_manager, seconds=_WHOLE_SECONDS)
        bound(streams.rest_client.pool_manager, seconds=None)
        hint = "`kubectl get nodes` shows whether the kubeconfig file fits."
        try:
            self._dynamic = Client(api, cache_file=_NO_FILE)
        except (*self._errors, *_LIMITS, HTTPError, OSError) as error:
            raise ClusterUnreachableError(
                f"The cluster's API server does not answer: {_reason(error)}.", hint=hint
            ) from error
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
            # The library does not check that an answer is the one that it expects.
            raise ClusterUnreachableError(
                f"What answers at {api.configuration.host} is no cluster's API server.", hint=hint
            ) from error
        self._core = client.CoreV1Api(api)
        self._streams = client.CoreV1Api(streams)
        self._version = client.VersionApi(api)
        self.address = str(api.configuration.host)
        """Where the API server is."""

    def get(self, name: ObjectName) -> Manifest | None:
        """Return an object, or None if there is none."""
        with self._explained(f"reading {name.kind} {name.name}"):
            resource = self._resource(name.api_version, name.kind)
            try:
                found = resource.get(name=name.name, namespace=name.namespace or None, _request_timeout=_SECONDS)
            except self._errors as error:
                if getattr(error, "status", None) == _NOT_FOUND:
                    return None
                raise
            return _plain(found)

    def find(self, api_version: str, kind: str, namespace: str, selector: str) -> Sequence[Manifest]:
        """Return the objects of a kind that have labels."""
        with self._explained(f"listing {kind}"):
            resource = self._resource(api_version, kind)
            found = resource.get(namespace=namespace or None, label_selector=selector, _request_timeout=_SECONDS)
            return [_plain(item) for item in _answered(found).items]

    def apply(self, made: Manifest, *, dry_run: bool = False) -> Manifest:
        """Apply an object on the server; fields that others own and we describe become ours."""
        with self._explained(f"applying {made['kind']} {made['metadata']['name']}"):
            resource = self._resource(made["apiVersion"], made["kind"])
            found = resource.server_side_apply(
                body=made,
                name=made["metadata"]["name"],
                namespace=made["metadata"].get("namespace"),
                field_manager=APPLICATION,
                force_conflicts=True,
                _request_timeout=_SECONDS,
                **({"dry_run": "All"} if dry_run else {}),
            )
            return _plain(found)

    def merge(self, name: ObjectName, patch: Manifest) -> None:
        """Change some fields of an object."""
        with self._explained(f"changing {name.kind} {name.name}"):
            self._resource(name.api_version, name.kind).patch(
                body=patch, name=name.name, namespace=name.namespace or None,
                content_type="application/merge-patch+json", _request_timeout=_SECONDS,
            )  # fmt: skip

    def delete(self, name: ObjectName) -> bool:
        """Delete an object with all that it owns; return whether it was there."""
        with self._explained(f"deleting {name.kind} {name.name}"):
            try:
                self._resource(name.api_version, name.kind).delete(
                    name=name.name, namespace=name.namespace or None, body={"propagationPolicy": "Foreground"},
                    _request_timeout=_SECONDS,
                )  # fmt: skip
            except self._errors as error:
                if getattr(error, "status", None) == _NOT_FOUND:
                    return False
                raise
        return True

    def may(self, verb: str, api_version: str, kind: str, *, namespace: str = "", subresource: str = "") -> str | None:
        """Return None if this kubeconfig's user may do something, else which right that is, as RBAC calls it.

        Source: https://kubernetes.io/docs/reference/access-authn-authz/authorization/#checking-api-access.

        Raises:
            KindUnknownError: There are no objects of this kind.
        """
        with self._explained(f"asking for the right to {verb} {kind}"):
            resource = self._resource(api_version, kind)
            asked = {
                "verb": verb,
                "group": resource.group or "",
                "version": resource.api_version,
                "resource": resource.name,
                "subresource": subresource,
                "namespace": namespace if resource.namespaced else "",
            }
            review = {"apiVersion": _REVIEWS, "kind": "SelfSubjectAccessReview", "spec": {"resourceAttributes": asked}}
            answer = self._resource(_REVIEWS, "SelfSubjectAccessReview").create(body=review, _request_timeout=_SECONDS)
        if _answered(answer).status.allowed:
            return None
        called = ".".join(filter(None, (resource.name, resource.group)))
        return f"{verb} {called}" + (f"/{subresource}" if subresource else "")

    def version_and_time(self) -> tuple[str, datetime | None]:
        """Return the version of the API server, and what time it is there, to the second; None if it does not say."""
        with self._explained("asking for the version"):
            found, _, headers = self._version.get_code_with_http_info(_request_timeout=_SECONDS)
        try:
            return str(found.git_version), parsedate_to_datetime(headers["Date"])
        except (KeyError, ValueError):  # a proxy before it
            return str(found.git_version), None

    def log(self, namespace: str, pod: str, container: str, *, last: int, previous: bool = False) -> Sequence[str]:
        """Return the last lines of a container's log; none if it has none yet."""
        return self._log(namespace, pod, container, tail_lines=last, previous=previous).splitlines()

    def stamped_log(self, namespace: str, pod: str, container: str, selection: LogSelection) -> Sequence[bytes]:
        """Return lines of a container's log, each with the time at which the node received it."""
        return self._log(namespace, pod, container, **_wanted(selection)).encode().splitlines()

    def _log(self, namespace: str, pod: str, container: str, **wanted: Any) -> str:
        with self._explained(f"reading the log of {pod}"):
            try:
                return str(
                    self._core.read_namespaced_pod_log(
                        pod, namespace, container=container, _request_timeout=_SECONDS, **wanted
                    )
                )
            except self._errors:
                return ""

    def follow(self, namespace: str, pods: Mapping[str, tuple[str, str]], selection: LogSelection) -> Iterator[LogLine]:
        """Yield what pods log, until all of them have ended.

        Args:
            namespace: Where they are.
            pods: The role and the container of each, by the pod's name.
            selection: Which lines come first.
        """
        from sealserve.cluster.kubernetes.bounded_api import lines  # noqa: PLC0415  # the library is an extra

        unread: Queue[LogLine | None] = Queue(_UNREAD_LINES)

        def read(pod: str, role: str, container: str) -> None:
            timed = Timed(role, pod, stamped=True)
            with contextlib.suppress(Exception):  # a pod that ends breaks its stream in many ways
                stream = self._streams.read_namespaced_pod_log(
                    pod, namespace, container=container, follow=True, _preload_content=False, **_wanted(selection)
                )
                for line in lines(stream):
                    unread.put(timed.line(line))
            unread.put(None)

        for pod, (role, container) in pods.items():
            threading.Thread(target=read, args=(pod, role, container), daemon=True).start()
        yield from followed(unread, len(pods))

    def _resource(self, api_version: str, kind: str) -> Any:
        prefix = "apis" if "/" in api_version else "api"  # without it, the library asks for the kinds of every group
        return self._dynamic.resources.get(prefix=prefix, api_version=api_version, kind=kind)

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        from kubernetes.dynamic.exceptions import ResourceNotFoundError  # noqa: PLC0415
        from urllib3.exceptions import HTTPError  # noqa: PLC0415

        try:
            yield
        except ResourceNotFoundError as error:
            raise KindUnknownError(
                f"{what}: the cluster does not know this kind of object.",
                hint="Install what defines it, or leave it out.",
            ) from error
        except self._errors as error:
            raise ClusterRefusedError(
                f"{what}: refused: {_reason(error)}.",
                hint="`kubectl auth can-i --list --namespace NAMESPACE` shows what this kubeconfig's user may do.",
            ) from error
        except (*_LIMITS, HTTPError, OSError) as error:
            raise ClusterUnreachableError(f"{what}: the API server does not answer: {_reason(error)}.") from error
        except (UnicodeError, RecursionError) as error:  # the library reads any answer as JSON, however deep
            raise ClusterUnreachableError(f"{what}: the API server's answer is not valid JSON.") from error


def _wanted(selection: LogSelection) -> Mapping[str, Any]:
    """Return the parameters of a request for lines of a log. The API takes a duration in whole seconds."""
    wanted: dict[str, Any] = {"timestamps": True}
    if selection.last is not None:
        wanted["tail_lines"] = selection.last
    if selection.since is not None:
        wanted["since_seconds"] = max(1, int((datetime.now(UTC) - selection.since).total_seconds()) + 1)
    return wanted


def tidy(made: Mapping[str, Any]) -> Manifest:
    """Return an object without what the server alone keeps."""
    metadata = {key: value for key, value in made.get("metadata", {}).items() if key not in _LEFT_OUT}
    return {**{key: value for key, value in made.items() if key != "status"}, "metadata": metadata}


def _answered(found: Any) -> Any:
    """Return what the library made of an answer.

    Raises:
        ClusterUnreachableError: It is no JSON, which the library returns as text: a proxy's page, perhaps.
    """
    if isinstance(found, str):
        raise ClusterUnreachableError(
            "What answers is no cluster's API server: it sends no JSON.", hint="Is there a proxy that wants a login?"
        )
    return found


def _plain(found: Any) -> Manifest:
    value: Manifest = _answered(found).to_dict()
    return value


def _reason(error: BaseException) -> str:
    body = getattr(error, "body", None)
    if body:
        import json  # noqa: PLC0415

        with contextlib.suppress(ValueError, AttributeError, TypeError, KeyError, RecursionError):
            return str(json.loads(body)["message"])[:_LONGEST_REASON]
    if isinstance(error, SealserveError):
        return error.message.rstrip(".")
    return str(error).splitlines()[0][:_LONGEST_REASON] if str(error) else type(error).__name__
