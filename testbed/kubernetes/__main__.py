"""`python -m testbed.kubernetes build | up | down | load | advertise-sgx`: manage the test cluster manually."""

import argparse
import os
import sys
from pathlib import Path

from testbed.kubernetes.cluster import NODES, Cluster, ClusterError
from testbed.kubernetes.network import NetworkError
from testbed.kubernetes.tools import ToolsError

from sealserve.errors import SealserveError


def main() -> int:
    """Run the command that the arguments name, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="testbed", description="Manage a real Kubernetes cluster on this machine, for tests and trials."
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("build", help="build the programs and install the packages, as `up` does if they are missing")
    up = verbs.add_parser("up", help="start the cluster; running parts are kept")
    up.add_argument(
        "--nodes", type=int, choices=(1, 2, 3), default=NODES, help="number of nodes (default: %(default)s)"
    )
    verbs.add_parser("down", help="stop the cluster, and remove everything except the built programs")
    load = verbs.add_parser("load", help="import images on every node, from archives in the format of `docker save`")
    load.add_argument("archives", type=Path, nargs="+", metavar="TAR")
    verbs.add_parser("advertise-sgx", help="make every node advertise simulated SGX resources again")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        print(
            "testbed: error: only root can create network namespaces and cgroups: run this command as root. "
            "To run the tests on another cluster, use `make test-kubernetes KUBECONFIG=FILE`.",
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
