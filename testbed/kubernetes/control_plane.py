"""The control plane: etcd, API server, controller manager, scheduler, as processes of this machine.

Source: https://kubernetes.io/docs/reference/command-line-tools-reference/ (each program's flags).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from testbed.kubernetes.certificates import kubeconfig
from testbed.kubernetes.layout import (
    API_PORT,
    CERTIFICATES,
    CONTROL_PLANE,
    DOMAIN,
    POD_NETWORK,
    SERVICE_NETWORK,
    STATE,
)

_ETCD: Final = f"https://{CONTROL_PLANE}:2379"
_ETCD_PEER: Final = f"https://{CONTROL_PLANE}:2380"


def etcd(programs: Path) -> Sequence[str]:
    """Return the command line of etcd. It does not sync to disk, because its data is deleted with the cluster."""
    return (
        str(programs / "etcd"),
        f"--data-dir={STATE / 'etcd'}",
        f"--listen-client-urls={_ETCD}",
        f"--advertise-client-urls={_ETCD}",
        f"--listen-peer-urls={_ETCD_PEER}",
        f"--initial-advertise-peer-urls={_ETCD_PEER}",
        f"--initial-cluster=default={_ETCD_PEER}",
        "--client-cert-auth",
        "--peer-client-cert-auth",
        *(
            f"--{prefix}{flag}={_file(name)}"
            for prefix in ("", "peer-")
            for flag, name in (("trusted-ca-file", "etcd-ca.crt"), ("cert-file", "etcd.crt"), ("key-file", "etcd.key"))
        ),
        "--unsafe-no-fsync",
        "--log-level=warn",
    )


def api_server(programs: Path, feature_gates: Mapping[str, bool]) -> Sequence[str]:
    """Return the command line of the API server. Privileged containers are not allowed in this cluster."""
    gates = ",".join(f"{name}={str(on).lower()}" for name, on in feature_gates.items())
    return (
        str(programs / "kube-apiserver"),
        *([f"--feature-gates={gates}"] if gates else []),
        f"--advertise-address={CONTROL_PLANE}",
        f"--bind-address={CONTROL_PLANE}",
        f"--secure-port={API_PORT}",
        f"--service-cluster-ip-range={SERVICE_NETWORK}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=false",
        "--anonymous-auth=false",
        f"--client-ca-file={_file('cluster-ca.crt')}",
        f"--tls-cert-file={_file('apiserver.crt')}",
        f"--tls-private-key-file={_file('apiserver.key')}",
        f"--etcd-servers={_ETCD}",
        f"--etcd-cafile={_file('etcd-ca.crt')}",
        f"--etcd-certfile={_file('etcd.crt')}",
        f"--etcd-keyfile={_file('etcd.key')}",
        f"--kubelet-certificate-authority={_file('cluster-ca.crt')}",
        f"--kubelet-client-certificate={_file('apiserver-kubelet.crt')}",
        f"--kubelet-client-key={_file('apiserver-kubelet.key')}",
        "--kubelet-preferred-address-types=InternalIP",
        f"--service-account-issuer=https://kubernetes.default.svc.{DOMAIN}",
        f"--service-account-key-file={_file('service-accounts.pub')}",
        f"--service-account-signing-key-file={_file('service-accounts.key')}",
        # The controller manager exits without these.
        f"--requestheader-client-ca-file={_file('front-proxy-ca.crt')}",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-username-headers=X-Remote-User",
        f"--proxy-client-cert-file={_file('front-proxy.crt')}",
        f"--proxy-client-key-file={_file('front-proxy.key')}",
    )


def controller_manager(programs: Path) -> Sequence[str]:
    """Return the command line of the controller manager. It detects a missing node within ten seconds."""
    return (
        str(programs / "kube-controller-manager"),
        *_client("kube-controller-manager"),
        f"--bind-address={CONTROL_PLANE}",
        f"--cluster-cidr={POD_NETWORK}",
        "--allocate-node-cidrs=false",
        f"--root-ca-file={_file('cluster-ca.crt')}",
        f"--cluster-signing-cert-file={_file('cluster-ca.crt')}",
        f"--cluster-signing-key-file={_file('cluster-ca.key')}",
        f"--service-account-private-key-file={_file('service-accounts.key')}",
        "--use-service-account-credentials=true",
        "--node-monitor-period=2s",
        "--node-monitor-grace-period=10s",
    )


def scheduler(programs: Path) -> Sequence[str]:
    """Return the command line of the scheduler."""
    return (str(programs / "kube-scheduler"), *_client("kube-scheduler"), f"--bind-address={CONTROL_PLANE}")


def _client(name: str) -> tuple[str, ...]:
    """Return the flags of a client that is also a server. A single instance needs no leader election."""
    flags = (
        f"--{flag}={kubeconfig(name)}"
        for flag in ("kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig")
    )
    return (*flags, "--leader-elect=false")


def _file(name: str) -> Path:
    return CERTIFICATES / name
