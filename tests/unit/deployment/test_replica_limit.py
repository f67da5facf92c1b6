import pytest
from tests.harness.errors import raises

from sealserve import deployment
from sealserve.deployment.codes import DeploymentCode
from sealserve.deployment.sections.docker import DockerSection


def described(kind: str, replicas: int, subnet: str = "10.213.0.0/22") -> deployment.Deployment:
    """Return a deployment with a number of replicas."""
    target = f'[target]\nkind = "{kind}"\nreplicas = {replicas}\n'
    return deployment.parse(f'[model]\nname = "m"\n{target}[docker]\nsubnet = "{subnet}"\n')


@pytest.mark.parametrize(
    ("kind", "subnet", "most", "reason"),
    [
        ("local", "10.213.0.0/22", 64, "each replica is a process with TensorFlow on this machine"),
        ("docker", "10.213.0.0/22", 125, "docker.subnet holds 128 networks"),
        ("docker", "10.213.0.0/27", 1, "docker.subnet holds 4 networks"),
        ("docker", "10.0.0.0/8", 2**21 - 3, "docker.subnet holds 2097152 networks"),
        ("kubernetes", "10.213.0.0/22", 1000, "Kubernetes truncates the Endpoints of larger Services"),
    ],
)
def test_each_target_has_one_limit_and_says_why(kind: str, subnet: str, most: int, reason: str) -> None:
    assert described(kind, most, subnet).target.replicas == most
    with raises(DeploymentCode.INVALID_VALUE) as caught:
        described(kind, most + 1, subnet)
    assert caught.value.message.startswith(
        f"sealserve.toml, line 5: target.replicas: the target {kind} runs at most {most} replicas ({reason}"
    )
    assert caught.value.message.endswith(f"), got {most + 1}.")


def test_the_autoscaler_has_the_clusters_limit() -> None:
    with raises(DeploymentCode.INVALID_VALUE, match=r"max_replicas: expected a number of at most 1000"):
        deployment.parse('[model]\nname = "m"\n[kubernetes.autoscaler]\nmax_replicas = 1001\n')


def test_a_subnet_has_room_for_one_replica_at_least() -> None:
    with raises(DeploymentCode.INVALID_VALUE, match="expected at least 32 addresses: /27 or larger"):
        described("docker", 1, "10.213.0.0/28")


def test_the_networks_of_a_subnet_are_next_to_each_other() -> None:
    docker = DockerSection()
    assert [docker.network(number) for number in range(docker.networks)] == list(docker.subnet.subnets(new_prefix=29))
