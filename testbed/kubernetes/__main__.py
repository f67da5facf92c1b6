"""`python -m testbed.kubernetes build | up | down | load | advertise-sgx`: the cluster of the tests, by hand."""

import argparse
import os
import sys
from pathlib import Path

from testbed.kubernetes.cluster import NODES, Cluster, ClusterError
from testbed.kubernetes.network import NetworkError
from testbed.kubernetes.tools import ToolsError

from sealserve.errors import SealserveError


def main() -> int:
    """Do what the arguments say; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="testbed", description="A real Kubernetes on this machine, for tests and trials."
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("build", help="build its programs and install its packages, as `up` does if they are missing")
    up = verbs.add_parser("up", help="start it; what runs already stays as it is")
    up.add_argument("--nodes", type=int, choices=(1, 2, 3), default=NODES, help="how many nodes (default: %(default)s)")
    verbs.add_parser("down", help="stop it, and remove everything but the programs that were built")
    load = verbs.add_parser("load", help="import images on every node, from archives as `docker save` writes them")
    load.add_argument("archives", type=Path, nargs="+", metavar="TAR")
    verbs.add_parser("advertise-sgx", help="let every node advertise simulated SGX resources again")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        print(
            "testbed: error: the testbed makes network namespaces and cgroups: run it as root. "
            "(`make test-kubernetes` takes another cluster as well: KUBECONFIG=FILE.)",
            file=sys.stderr,
        )
        return 4
    cluster = Cluster(say=lambda line: print(f"testbed: {line}", flush=True))
    try:
        match arguments.verb:
            case "build":
                cluster.build()
            case "up":
                cluster.up(node_count=arguments.nodes)
            case "down":
                cluster.down()
            case "load":
                cluster.load(arguments.archives)
            case _:
                cluster.advertise_sgx()
    except (ClusterError, NetworkError, ToolsError, SealserveError) as error:
        print(f"testbed: error: {error}", file=sys.stderr)
        return 4
    return 0


if __name__ == "__main__":
    sys.exit(main())
