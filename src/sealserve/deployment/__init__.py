"""Contents of ``sealserve.toml``: the models, the service, the broker, the policy and the target."""

from sealserve.deployment.database_section import DatabaseSection
from sealserve.deployment.example import suggest_name, write_example, write_short
from sealserve.deployment.kubernetes_section import KubernetesSection
from sealserve.deployment.reader import parse, read
from sealserve.deployment.sections import KeystoreSection, ModelSection
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
