"""A user who verifies a simulated deployment with the user's commands before she sends an input."""

from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from tests.harness.running import Ended, run
from tests.harness.workspaces import Site

from sealserve.owner.simulation import ROOT_FILE


def trust(site: Site) -> Path:
    """Write the policy file of a user who pins the owner's key and accepts the site's simulated vendor."""
    policy, root = site.directory / "policy.toml", site.directory / "simulated-root.pem"
    certificate = x509.load_der_x509_certificate((site.workspace.owner.trust / ROOT_FILE).read_bytes())
    root.write_bytes(certificate.public_bytes(Encoding.PEM))
    done = run("user", "trust", site.workspace.host.owner_key, "--policy", policy, "--dangerous-simulated-root", root)
    assert done.status == 0, done.err
    return policy


def verify(site: Site, policy: Path) -> Ended:
    """Run `sealserve verify` for the address in the site's ``sealserve.toml``."""
    return run("verify", "--policy", policy, "--json", "--directory", site.directory)


def predict(site: Site, policy: Path) -> Ended:
    """Send one request to the model ``half-plus-two``, after the verification of the replica that gets it."""
    options = ("--require-attested", "--policy", policy, "--json", "--directory", site.directory)
    return run("predict", "--input", "x=[2.0]", *options)


def check_verified(site: Site, policy: Path, *, release: Path) -> Any:
    """Check that the service verifies and then answers, and return the result of `sealserve verify`."""
    verified, answered = verify(site, policy), predict(site, policy)
    assert verified.status == 0, verified.out + verified.err
    found = verified.json
    assert [step["step"] for step in found["steps"]] == [1, 2, 3, 4, 5, 6]
    assert release.name.endswith(found["release_id"][:12])
    assert found["simulated"]
    assert answered.status == 0, answered.out + answered.err
    assert answered.json["outputs"] == {"y": [3.0]}
    return found
