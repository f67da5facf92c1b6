"""The facts from which a release is built: pairs of key and value, both text, so that releases can be compared.

The facts contain only settings that are sealed into a release, measured into its enclaves, or checked when it is built.
All other settings apply without a new release. A fact never contains a secret: files and certificates are represented
by their SHA-256.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydantic import BaseModel

from sealserve.deployment import Deployment, ModelSection
from sealserve.deployment.section import Section, fields_of, section_of, value_of
from sealserve.errors import SealserveError
from sealserve.owner import users
from sealserve.owner.model_record import ModelDigests
from sealserve.pki.authority import AuthorityKind
from sealserve.pki.ssl_config import SSL_CONFIG_PATH
from sealserve.regular_file import open_regular, read_regular
from sealserve.sealing.release_index import ReleaseIndex
from sealserve.terms import TlsMode
from sealserve.workspace import Workspace

RELEASE_SETTINGS: Final = frozenset({
    "platform",
    # The certificate of the service, and how its server checks users. The certificate names its private key.
    "service.name", "service.tls", "service.tls_certificate_file",
    # The server's configuration files and its command line.
    "server.kind", "server.threads", "server.max_connection_age_seconds", "server.min_ping_seconds",
    "server.soft_placement", "server.batching_parameters_file", "server.monitoring_config_file", "server.metrics_port",
    "server.rest", "server.dangerous_owner_tls_key", "server.dangerous_shared_batches",
    "server.traces.endpoint", "server.traces.ca_file", "server.traces.percent", "server.traces.per_second",
    "server.traces.dangerous_plaintext",
    # The enclave's manifest and SIGSTRUCT.
    "enclave.size", "enclave.edmm", "enclave.required_cpu_features", "enclave.isv_prod_id", "enclave.isv_svn",
    "broker.address", "broker.port",
    # The policy that the broker stores with a release.
    "tcb.preset", "tcb.policy_file", "broker.approval",
})  # fmt: skip
"""Settings outside of [model] whose change needs a new release."""

MODEL_SETTINGS: Final = frozenset({"labels", "inputs", "outputs", "tags", "dangerous_operations"})
"""Settings of a model whose change needs a new release, besides name and version. For the path, the content counts."""

SIGNER_SETTINGS: Final = frozenset({
    "signature", "signer_key", "signer_ca", "signer_identity", "signer_issuer", "signer_trust_file",
})  # fmt: skip
"""Settings of a model's signature. They are facts only if they are set: unsigned models have the facts as before."""

PREPARATION_SETTINGS: Final = frozenset({"warm_up"})
"""Settings of a model's preparation. They are facts only if they are set."""

OPTIMIZATION_SETTINGS: Final = frozenset({
    "optimize", "optimize_inputs", "optimize_min_top1", "optimize_min_top5", "optimize_max_difference",
    "optimize_max_relative_difference",
})  # fmt: skip
"""Settings of a model's optimization. They are facts only if the model is optimized."""

SOURCE: Final = ".source"
CONTENT: Final = ".content"
_OWNER_TLS_KEY: Final = "server.dangerous_owner_tls_key"
_BEFORE: Final[Mapping[str, str]] = {_OWNER_TLS_KEY: "true"}
"""The values that releases have from versions without the setting, where they differ from the setting's default."""
_MODEL: Final = re.compile(r"model\[(?P<name>[^:\]]+):(?P<version>[0-9]+)\]")
_AUTHORITY: Final = "certificates."
_REVOCATIONS: Final = "users.revocations"
"""Key of a digest of the users' revoked certificates. Each release contains the revocation list of its build time."""
_MISSING: Final = "missing"


def described_facts(
    workspace: Workspace, deployment: Deployment, models: Mapping[tuple[str, int], ModelDigests]
) -> Mapping[str, str]:
    """Return the facts of a release that would be built now.

    Args:
        workspace: The owner's workspace, with the certificate authorities.
        deployment: The deployment that ``sealserve.toml`` describes.
        models: Digests of each model's source and of its converted copy, by name and version.
    """
    facts = {key: _setting(deployment, key) for key in RELEASE_SETTINGS}
    for model in deployment.models:
        facts |= _model_facts(model, models.get((model.name, model.version), ModelDigests()))
    for kind in AuthorityKind:
        certificate = workspace.owner.authorities / kind / "ca.pem"
        if certificate.is_file():
            facts[f"{_AUTHORITY}{kind}"] = hashlib.sha256(read_regular(certificate)).hexdigest()
    if deployment.service.tls is TlsMode.TWO_WAY and (revoked := users.revocations(workspace)):
        facts[_REVOCATIONS] = revoked
    return facts


def model_key(name: str, version: int) -> str:
    """Return the key of a model's facts."""
    return f"model[{name}:{version}]"


def contains_tls_key(index: ReleaseIndex) -> bool:
    """Return whether a release contains the TLS key of its service, which the owner created. If not, it is attested."""
    return any(file.path == SSL_CONFIG_PATH for file in index.files)


def default_of(key: str) -> str | None:
    """Return the value of a setting in a release that was built before the setting existed, as a fact.

    This is the setting's default, unless the default changes how the service works. A setting without a default has the
    value None.
    """
    if key in _BEFORE:
        return _BEFORE[key]
    section: type[BaseModel] = Deployment
    *tables, name = key.split(".")
    for table in tables:
        field = fields_of(section).get(table)
        inner = None if field is None else section_of(field)
        if inner is None:
            return None
        section = inner
    field = fields_of(section).get(name)
    return None if field is None or field.is_required() else _text(field.default)


def as_described(facts: Mapping[str, str]) -> Mapping[str, str]:
    """Return the facts of `sealserve.toml` and the models' sources, without facts that are derived from them.

    The converted copy of a model is included only if its source is unknown.
    """

    def derived(key: str) -> bool:
        converted = key.endswith(CONTENT) and f"{key.removesuffix(CONTENT)}{SOURCE}" in facts
        return converted or key.startswith(_AUTHORITY)

    return {key: value for key, value in facts.items() if not derived(key)}


def as_released(deployment: Deployment, facts: Mapping[str, str] | None) -> Deployment:
    """Return the deployment with the server and enclave settings from which a release was built.

    The enclaves of an older release thus stay the same if ``sealserve.toml`` changes, and a roll-back can use them. The
    broker's address and the policy are the current ones.

    Args:
        deployment: The deployment that ``sealserve.toml`` describes now.
        facts: The facts from which the release was built, or None if they are unknown.
    """
    if facts is None:
        return deployment
    changed: dict[str, BaseModel | tuple[ModelSection, ...]] = {}
    for name in ("server", "enclave"):
        section: BaseModel = getattr(deployment, name)
        values = json.loads(section.model_dump_json())
        for key, text in facts.items():
            if key in RELEASE_SETTINGS and key.startswith(f"{name}.") and not key.endswith("_file"):
                *tables, last = key.split(".")[1:]
                table = values
                for inner in tables:
                    table = table[inner]
                table[last] = json.loads(text)
        changed[name] = type(section).model_validate_json(json.dumps(values))
    models = []
    for key in facts:
        if found := _MODEL.fullmatch(key):
            lists = {name: json.loads(facts.get(f"{key}.{name}", "[]")) for name in ("labels", "dangerous_operations")}
            described = {"name": found["name"], "version": int(found["version"]), **lists}
            models.append(ModelSection.model_validate_json(json.dumps(described)))
    return deployment.model_copy(update={**changed, "models": tuple(models) or deployment.models})


def _setting(deployment: Deployment, key: str) -> str:
    if key == _OWNER_TLS_KEY:
        return _text(not deployment.server.attested)  # always so with TensorFlow Serving's own binary
    value: object = deployment
    for name in key.split("."):
        value = value_of(value, name) if isinstance(value, Section) else getattr(value, name)
    return _file_digest(value) if isinstance(value, Path) else _text(value)


def _model_facts(model: ModelSection, digests: ModelDigests) -> dict[str, str]:
    key = model_key(model.name, model.version)
    facts = {key: "served"} | {f"{key}.{name}": _text(getattr(model, name)) for name in MODEL_SETTINGS}
    named = SIGNER_SETTINGS | (OPTIMIZATION_SETTINGS if model.optimize is not None else frozenset())
    if model.warm_up:
        named |= PREPARATION_SETTINGS
    for name in named:
        if (value := getattr(model, name)) is not None:
            facts[f"{key}.{name}"] = _file_digest(value) if isinstance(value, Path) else _text(value)
    if digests.source is not None:
        facts[f"{key}{SOURCE}"] = digests.source
    if digests.content is not None:
        facts[f"{key}{CONTENT}"] = digests.content
    return facts


def _file_digest(path: Path) -> str:
    """Return the SHA-256 of a file in a setting. A missing file is a fact too; `release build` reports the error."""
    try:
        with open_regular(path) as descriptor, open(descriptor, "rb", closefd=False) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (SealserveError, OSError):
        return _MISSING


def _text(value: object) -> str:
    """Return a setting's value as JSON."""
    return json.dumps(value, ensure_ascii=False, default=str)
