"""The address of the service in a cluster, from NGINX's Service."""

from collections.abc import Mapping

from sealserve.cluster.kubernetes.render_context import Manifest


def addresses(service: Manifest) -> Mapping[str, str]:
    """Return the address of each port of a Service, by the port's name (``grpc``, ``rest``).

    A load balancer's address takes precedence. Next is a node port, with ``NODE`` as a placeholder for the node's
    address. Otherwise the address is the cluster IP.
    """
    spec = service["spec"]
    balancers = service.get("status", {}).get("loadBalancer", {}).get("ingress") or ()
    outside = next((str(item.get("ip") or item.get("hostname") or "") for item in balancers), "")
    found: dict[str, str] = {}
    for port in spec.get("ports") or ():
        name = str(port.get("name", ""))
        if outside:
            found[name] = _joined(outside, port["port"])
        elif port.get("nodePort"):
            found[name] = f"NODE:{port['nodePort']}"
        else:
            found[name] = _joined(str(spec.get("clusterIP", "")), port["port"])
    return found


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
