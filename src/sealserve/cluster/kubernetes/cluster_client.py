"""Client for a cluster's API, limited to the needs of a deployment, on top of the official client.

Source: https://kubernetes.io/docs/reference/using-api/server-side-apply/, https://github.com/kubernetes-client/python
(``kubernetes.dynamic``).
"""

import contextlib
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from queue import Queue
from typing import Any, Final
from urllib.parse import quote

from yaml import YAMLError

from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.kubernetes.render_context import APPLICATION, Manifest
from sealserve.cluster.logs.merge import LogLine, Timed, followed
from sealserve.cluster.logs.selection import LogSelection
from sealserve.errors import SealserveError, UnavailableError
from sealserve.http_answer import HttpEncodingError, HttpSizeError, HttpSlowError

_NOT_FOUND: Final = 404
_SECONDS: Final = 30  # timeout for the connection, and then for each part of an answer
_WHOLE_SECONDS: Final = 120  # timeout for a whole answer, including one retry
_LONGEST_REASON: Final = 2000  # maximum characters of a reason, which the server chooses
_UNREAD_LINES: Final = 1000  # maximum buffered log lines
_NO_FILE: Final = os.path.join(os.devnull, "none")  # noqa: PTH118  # a path that can be neither read nor written
"""Path of the library's cache of object kinds. By default it is in the shared temporary folder, writable by others."""
_LIMITS: Final = (HttpEncodingError, HttpSizeError, HttpSlowError)
_REVIEWS: Final = "authorization.k8s.io/v1"
_LEFT_OUT: Final = ("managedFields", "resourceVersion", "uid", "generation", "creationTimestamp")


class ClusterUnreachableError(UnavailableError):
    """The cluster's API server cannot be reached, or no valid kubeconfig file exists."""

    code = "kubernetes.unreachable"


class ClusterRefusedError(UnavailableError):
    """The API server rejects a request."""

    code = "kubernetes.refused"


class KindUnknownError(ClusterRefusedError):
    """The cluster does not support objects of this kind: their definition is not installed, or too old."""

    code = "kubernetes.unknown-kind"


@dataclass(frozen=True, slots=True)
class ObjectName:
    """The identity of an object."""

    api_version: str
    kind: str
    namespace: str
    name: str

    @classmethod
    def of(cls, made: Mapping[str, Any]) -> "ObjectName":
        """Return the identity of ``made``."""
        metadata = made["metadata"]
        return cls(made["apiVersion"], made["kind"], metadata.get("namespace", ""), metadata["name"])


class ClusterClient:
    """A cluster.

    Args:
        kubeconfig: The path of a kubeconfig file. None for the environment's (KUBECONFIG, ~/.kube/config).
        context: A context in this file. None for the current context.

    Raises:
        UnavailableError: `kubernetes.client-missing` if the client library is not installed.
        ClusterUnreachableError: The file or the context does not exist, or no server answers.
    """

    def __init__(self, kubeconfig: str | None = None, context: str | None = None) -> None:
        try:
            from kubernetes.config.config_exception import ConfigException  # noqa: PLC0415
            from urllib3.exceptions import HTTPError  # noqa: PLC0415

            from kubernetes import client, config, dynamic  # noqa: PLC0415  # an extra, and slow to import
            from sealserve.cluster.kubernetes.bounded_api import Retries, bound  # noqa: PLC0415
        except ImportError as error:
            raise ClusterCode.KUBERNETES_CLIENT_MISSING.error(
                "The Kubernetes client library for Python is not installed.",
                hint="Run `pip install 'sealserve[kubernetes]'`, or `make setup` in a checkout.",
            ) from error
        self._errors = (client.ApiException, dynamic.exceptions.DynamicApiError)

        class Client(dynamic.DynamicClient):  # type: ignore[misc]  # the library has no types
            """A client with a timeout for discovering object kinds, which the library lacks."""

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
            # An error message may quote the file. If the file is not a kubeconfig, only the type of error is shown.
            reason = str(error).rstrip(".") if isinstance(error, ConfigException) else type(error).__name__
            raise ClusterUnreachableError(
                f"The kubeconfig file is not usable: {reason}.", hint="Set KUBECONFIG to the cluster's kubeconfig file."
            ) from error
        # Limit what a hostile server can make this process read, before the first request.
        bound(api.rest_client.pool_manager, seconds=_WHOLE_SECONDS)
        bound(streams.rest_client.pool_manager, seconds=None)
        hint = "Check the kubeconfig file with `kubectl get nodes`."
        try:
            self._dynamic = Client(api, cache_file=_NO_FILE)
        except (*self._errors, *_LIMITS, HTTPError, OSError) as error:
            raise ClusterUnreachableError(
                f"The cluster's API server does not answer: {_reason(error)}.", hint=hint
            ) from error
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
            # The library does not validate answers.
            raise ClusterUnreachableError(
                f"The server at {api.configuration.host} is not a Kubernetes API server.", hint=hint
            ) from error
        self._core = client.CoreV1Api(api)
        self._streams = client.CoreV1Api(streams)
        self._version = client.VersionApi(api)
        self.address = str(api.configuration.host)
        """The address of the API server."""

    def get(self, name: ObjectName) -> Manifest | None:
        """Return an object, or None if it does not exist."""
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
        """Return the objects of a kind that match a label selector."""
        with self._explained(f"listing {kind}"):
            resource = self._resource(api_version, kind)
            found = resource.get(namespace=namespace or None, label_selector=selector, _request_timeout=_SECONDS)
            return [_plain(item) for item in _answered(found).items]

    def apply(self, made: Manifest, *, dry_run: bool = False) -> Manifest:
        """Apply an object with server-side apply. Takes ownership of described fields from other managers."""
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
        """Delete an object with all objects that it owns. Return whether it existed."""
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
        """Return None if the kubeconfig's user has a permission, or else the permission's name in RBAC.

        Source: https://kubernetes.io/docs/reference/access-authn-authz/authorization/#checking-api-access.

        Raises:
            KindUnknownError: The cluster does not support objects of this kind.
        """
        with self._explained(f"checking the permission to {verb} {kind}"):
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

    def kubelet_feature_gates(self, node: str) -> Mapping[str, bool] | None:
        """Return the feature gates that a kubelet's settings name, or None if it does not answer.

        This requires the permission to get ``nodes/proxy``.
        """
        path = f"/api/v1/nodes/{quote(node, safe='')}/proxy/configz"
        try:
            with self._explained(f"reading the settings of the kubelet on {node}"):
                found = json.loads(self._dynamic.request("get", path, serialize=False).data)
            return {str(name): on is True for name, on in found["kubeletconfig"].get("featureGates", {}).items()}
        except (UnavailableError, ValueError, TypeError, AttributeError, KeyError):
            return None

    def version_and_time(self) -> tuple[str, datetime | None]:
        """Return the API server's version, and its time to the second, or None if its answer contains no time."""
        with self._explained("requesting the version"):
            found, _, headers = self._version.get_code_with_http_info(_request_timeout=_SECONDS)
        try:
            return str(found.git_version), parsedate_to_datetime(headers["Date"])
        except (KeyError, ValueError):  # a proxy may remove or change the header
            return str(found.git_version), None

    def log(self, namespace: str, pod: str, container: str, *, last: int, previous: bool = False) -> Sequence[str]:
        """Return the last lines of a container's log. Empty if it has no log yet."""
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
        """Yield the log lines of pods until all of them have ended.

        Args:
            namespace: The pods' namespace.
            pods: The role and the container of each pod, by the pod's name.
            selection: Which existing lines to yield first.
        """
        from sealserve.cluster.kubernetes.bounded_api import lines  # noqa: PLC0415  # the library is an extra

        unread: Queue[LogLine | None] = Queue(_UNREAD_LINES)

        def read(pod: str, role: str, container: str) -> None:
            timed = Timed(role, pod, stamped=True)
            with contextlib.suppress(Exception):  # a pod that ends breaks its stream with various exceptions
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
        prefix = "apis" if "/" in api_version else "api"  # without a prefix, the library discovers every API group
        return self._dynamic.resources.get(prefix=prefix, api_version=api_version, kind=kind)

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        from kubernetes.dynamic.exceptions import ResourceNotFoundError  # noqa: PLC0415
        from urllib3.exceptions import HTTPError  # noqa: PLC0415

        try:
            yield
        except ResourceNotFoundError as error:
            raise KindUnknownError(
                f"{what} failed: the cluster does not support this kind of object.",
                hint="Install its definition (CRD), or turn off the setting that requires it.",
            ) from error
        except self._errors as error:
            raise ClusterRefusedError(
                f"{what} failed: the API server rejects the request: {_reason(error)}.",
                hint="To see this user's permissions, run `kubectl auth can-i --list --namespace NAMESPACE`.",
            ) from error
        except (*_LIMITS, HTTPError, OSError) as error:
            raise ClusterUnreachableError(
                f"{what} failed: the API server does not answer: {_reason(error)}.",
                hint="Check the connection with `kubectl get nodes`.",
            ) from error
        except (UnicodeError, RecursionError) as error:  # the library parses any answer as JSON, at any depth
            raise ClusterUnreachableError(
                f"{what} failed: the API server's answer is not valid JSON.",
                hint="Check whether a proxy answers instead of the API server.",
            ) from error


def _wanted(selection: LogSelection) -> Mapping[str, Any]:
    """Return the request parameters for selected log lines. The API takes a duration in whole seconds."""
    wanted: dict[str, Any] = {"timestamps": True}
    if selection.last is not None:
        wanted["tail_lines"] = selection.last
    if selection.since is not None:
        wanted["since_seconds"] = max(1, int((datetime.now(UTC) - selection.since).total_seconds()) + 1)
    return wanted


def tidy(made: Mapping[str, Any]) -> Manifest:
    """Return an object without the fields that only the server sets."""
    metadata = {key: value for key, value in made.get("metadata", {}).items() if key not in _LEFT_OUT}
    return {**{key: value for key, value in made.items() if key != "status"}, "metadata": metadata}


def _answered(found: Any) -> Any:
    """Return the library's parsed answer.

    Raises:
        ClusterUnreachableError: It is not JSON, and the library returns it as text, for example a proxy's page.
    """
    if isinstance(found, str):
        raise ClusterUnreachableError(
            "The server is not a Kubernetes API server: its answer is not JSON.",
            hint="Check whether a proxy requires a login.",
        )
    return found


def _plain(found: Any) -> Manifest:
    value: Manifest = _answered(found).to_dict()
    return value


def _reason(error: BaseException) -> str:
    body = getattr(error, "body", None)
    if body:
        with contextlib.suppress(ValueError, AttributeError, TypeError, KeyError, RecursionError):
            return str(json.loads(body)["message"])[:_LONGEST_REASON]
    if isinstance(error, SealserveError):
        return error.message.rstrip(".")
    return str(error).splitlines()[0][:_LONGEST_REASON] if str(error) else type(error).__name__
