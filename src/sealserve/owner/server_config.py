"""The model server's configuration files in a release."""

from typing import Final

from sealserve.deployment import Deployment, ModelSection
from sealserve.enclave.server_command import PRIVATE_ROOT
from sealserve.model.server_config import (
    ServedModel,
    model_server_config,
    read_batching_parameters,
    read_monitoring_config,
)
from sealserve.owner.codes import OwnerCode
from sealserve.pki.certificate import only_certificates
from sealserve.regular_file import read_regular
from sealserve.sealing.release_index import MODELS_FOLDER

MODEL_CONFIG: Final = "config/models.config"
BATCHING_PARAMETERS: Final = "config/batching.config"
MONITORING_CONFIG: Final = "config/monitoring.config"
SESSION_CONFIG: Final = "config/session.config"
TRACES_CA: Final = "config/traces-ca.pem"
SOFT_PLACEMENT: Final = b"allow_soft_placement: true\n"
"""TensorFlow's ConfigProto as text. Operations of a model from a machine with a GPU can name the GPU."""


def server_config_files(deployment: Deployment) -> dict[str, bytes]:
    """Return the model server's configuration files by their paths in the release.

    Raises:
        InputError: `server-config.shared-batches`: The server is attested, and batching is not allowed explicitly.
        SealserveError: As the functions of `sealserve.model.server_config`.
    """
    grouped: dict[str, list[ModelSection]] = {}
    for model in deployment.models:
        grouped.setdefault(model.name, []).append(model)
    served = [
        ServedModel(
            name=name,
            base_path=f"{PRIVATE_ROOT}/{MODELS_FOLDER}/{name}",
            versions=[model.version for model in versions],
            labels={label: model.version for model in versions for label in model.labels},
        )
        for name, versions in sorted(grouped.items())
    ]
    files = {MODEL_CONFIG: model_server_config(served)}
    if (path := deployment.server.batching_parameters_file) is not None:
        if deployment.server.attested and not deployment.server.dangerous_shared_batches:
            raise OwnerCode.SERVER_CONFIG_SHARED_BATCHES.error(
                "server.batching_parameters_file is set, but the server is attested: a model could answer one user "
                "with the input of another user in the same batch.",
                hint="Remove the setting. If all users trust the model, set server.dangerous_shared_batches = true.",
            )
        files[BATCHING_PARAMETERS] = read_batching_parameters(path)
    if (path := deployment.server.monitoring_config_file) is not None:
        files[MONITORING_CONFIG] = read_monitoring_config(path)
    collector = deployment.server.traces.collector
    if collector is not None and collector.tls and (path := deployment.server.traces.ca_file) is not None:
        files[TRACES_CA] = only_certificates(read_regular(path), source=f"server.traces.ca_file {path}")
    if deployment.server.soft_placement:
        files[SESSION_CONFIG] = SOFT_PLACEMENT
    return files
