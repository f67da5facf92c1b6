"""ModelService: the states of a model's versions, and the rejection of reloads.

Source: tensorflow/serving, ``model_servers/get_model_status_impl.cc`` and ``model_service_impl.cc``.
"""

from typing import NoReturn

from sealserve.serving.request_errors import RequestCode, Status
from sealserve.serving.runtime.protos import GetModelStatusRequest, GetModelStatusResponse
from sealserve.serving.servables import Servables


def get_model_status(servables: Servables, request: GetModelStatusRequest) -> GetModelStatusResponse:
    """Return the states of the versions that ``request`` asks for.

    Raises:
        RequestError: The request cannot be answered.
    """
    if not request.HasField("model_spec"):
        raise RequestCode.MODEL_SPEC.error("Missing ModelSpec")
    spec = request.model_spec
    states = servables.states(spec.name)
    if spec.HasField("version"):
        version = spec.version.value
        if version not in states:
            raise RequestCode.SERVABLE_NOT_FOUND.error(f"Could not find version {version} of model {spec.name}")
        states = {version: states[version]}
    elif not states:
        raise RequestCode.SERVABLE_NOT_FOUND.error(f"Could not find any versions of model {spec.name}")
    response = GetModelStatusResponse()
    for version, state in sorted(states.items(), reverse=True):  # the latest first (ServableStateMonitor::VersionMap)
        row = response.model_version_status.add(version=version, state=int(state.state))
        row.status.SetInParent()
        if state.health.status is not Status.OK:
            row.status.error_code = int(state.health.status)
            row.status.error_message = state.health.message
    return response


def refuse_reload() -> NoReturn:
    """Reject HandleReloadConfigRequest, because a client of the inference port must not be able to change the models.

    Raises:
        RequestError: `request.reload-refused`: Always.
    """
    raise RequestCode.RELOAD_REFUSED.error(
        "The models of this server cannot be changed by clients. In a sealed release the models are fixed: ship a new"
        " release. Otherwise, operators can reload models at --admin_address."
    )
