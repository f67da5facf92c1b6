"""Contents of ``sealserve.toml``: the models, the service, the broker, the policy and the target."""

from sealserve.deployment.example import suggest_name, write_example, write_short
from sealserve.deployment.reader import parse, read
from sealserve.deployment.sections.database import DatabaseSection
from sealserve.deployment.sections.keystore import KeystoreSection
from sealserve.deployment.sections.kubernetes import KubernetesSection
from sealserve.deployment.sections.model import ModelSection
from sealserve.deployment.whole import Deployment

__all__ = [
    "DatabaseSection",
    "Deployment",
    "KeystoreSection",
    "KubernetesSection",
    "ModelSection",
    "parse",
    "read",
    "suggest_name",
    "write_example",
    "write_short",
]
