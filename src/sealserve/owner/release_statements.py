"""The owner's release statements: what users may expect of a release, signed with the key that signs releases.

`release build` records the digests of the models, because only it has their plaintext. The registration of the release
signs the statement, because then the measurements, the policy and the broker's keys are known. The broker's database
stores the newest statement.
"""

import logging
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError
from sqlalchemy import Connection

from sealserve.atomic_file import PRIVATE, write_file
from sealserve.attestation.json_web_keys import JsonWebKeySet
from sealserve.attestation.strict_document import SignedContent
from sealserve.attested.release_statement import (
    ReleaseStatement,
    StatedBroker,
    StatedEnclave,
    StatedModel,
    StatedPolicy,
    model_digest,
    sign_statement,
    verify_statement,
)
from sealserve.broker import releases, statements
from sealserve.broker.admin import OWNER, Actor, KnownRelease
from sealserve.broker.releases import PRODUCT_LABEL
from sealserve.broker.standing import ReleaseState
from sealserve.broker.state_comparison import fingerprint
from sealserve.canonical_document import canonical_json
from sealserve.deployment import Deployment, ModelSection
from sealserve.errors import SealserveError
from sealserve.owner.codes import OwnerCode
from sealserve.owner.server_config import BATCHING_PARAMETERS
from sealserve.regular_file import read_regular
from sealserve.sealing.release import Release, VerifiedRelease
from sealserve.sealing.release_index import MODELS_FOLDER
from sealserve.sgx.reference_values import ReferenceValues, parse_reference
from sealserve.workspace import Workspace

LOGGER: Final = logging.getLogger(__name__)
MOST_ENCLAVES: Final = 16
"""The maximum number of enclaves in a statement. The limit is part of the format."""
_MOST_KEYS: Final = 8


class _RecordedModel(BaseModel):
    """A model of a release. Its values may not fit into a statement, which not every deployment needs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    version: str
    sha256: str | None
    allowed_operations: tuple[str, ...]


class _Record(BaseModel):
    """The models of a release, as they were built."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    release_id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    models: tuple[_RecordedModel, ...]


def remember(workspace: Workspace, built: Release, models: Sequence[ModelSection]) -> None:
    """Record the digests of the models of a new release, and the operations that only the owner allowed.

    All allowed operations count, even if the model does not contain them: the measured command line lists them.

    Args:
        workspace: The owner's workspace.
        built: The new release.
        models: Its models.
    """
    recorded = tuple(
        _RecordedModel(
            name=model.name,
            version=str(model.version),
            sha256=_digest(built, model),
            allowed_operations=tuple(sorted(set(model.dangerous_operations))),
        )
        for model in models
    )
    path = _place(workspace, built.folder.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    record = _Record(release_id=built.id, models=recorded)
    write_file(path, canonical_json(record.model_dump(mode="json")), mode=PRIVATE)


def forget(workspace: Workspace, release: str) -> None:
    """Remove the record of a release."""
    _place(workspace, release).unlink(missing_ok=True)


def check_number(release: str, measurements: Iterable[bytes]) -> None:
    """Check that a statement can list the enclaves of a release.

    Raises:
        InputError: `release.statement`: There are too many.
    """
    if (number := len(set(measurements))) > MOST_ENCLAVES:
        raise _impossible(
            release,
            f"expected at most {MOST_ENCLAVES} enclaves, got {number}",
            hint="Build a new release for the replicas, or use server.dangerous_owner_tls_key = true.",
        )


def describe(
    workspace: Workspace,
    deployment: Deployment,
    verified: VerifiedRelease,
    known: KnownRelease,
    keys: JsonWebKeySet,
    *,
    now: datetime,
) -> ReleaseStatement:
    """Return the statement about a registered release.

    Args:
        workspace: The owner's workspace.
        deployment: Supplies the broker's name.
        verified: The verified release.
        known: The registered release with all its enclaves.
        keys: The keys of the broker's attestation results.
        now: The current time.

    Raises:
        InputError: `release.statement`: The release has no record, too many models, enclaves or operations, or the
            statement would be too large.
    """
    name, policy = verified.folder.name, known.release.policy
    # An enclave that only a dangerous policy accepts is not part of the release.
    enclaves = [parse_reference(found.values) for found in known.enclaves if found.label != PRODUCT_LABEL]
    check_number(name, (found.measurement for found in enclaves))
    try:
        statement = ReleaseStatement(
            release_id=verified.id,
            # The server of an attested release starts with this file only if it may share batches.
            shared_batches=any(file.path == BATCHING_PARAMETERS for file in verified.index.files),
            issued=int(now.timestamp()),
            models=_recorded(workspace, verified),
            enclaves=tuple(StatedEnclave.of_values(found) for found in enclaves if isinstance(found, ReferenceValues)),
            policy=StatedPolicy(name=policy.tcb.name, sha256=fingerprint(policy.to_json())),
            brokers=(_stated(deployment.broker.name, keys),),
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise _impossible(name, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    if (size := len(statement.to_bytes())) > ReleaseStatement.limit:
        raise _impossible(name, f"expected at most {ReleaseStatement.limit} bytes, got {size}")
    return statement


def publish(
    connection: Connection,
    known: KnownRelease,
    statement: ReleaseStatement,
    owner_key: Ed25519PrivateKey,
    *,
    now: datetime,
    actor: Actor = OWNER,
) -> bool:
    """Sign a statement and store it for the broker, unless the stored statement states the same.

    Args:
        connection: A writing transaction of the broker's database.
        known: The registered release.
        statement: The statement. Its time is moved, if necessary, so that it is later than the stored statement's.
        owner_key: The key that signs releases.
        now: The current time.
        actor: Who makes the change, for the audit log.

    Returns:
        Whether a statement was signed.
    """
    former = _signed_by_the_owner(statements.find(connection, known.release.release_id), owner_key)
    if former is not None:
        if former.model_copy(update={"issued": statement.issued}) == statement:
            return False
        statement = statement.model_copy(update={"issued": max(statement.issued, former.issued + 1)})
    signed = sign_statement(statement, owner_key)
    statements.put(connection, known.release, signed, now=now, actor=actor)
    return True


def restate(
    connection: Connection,
    keys: JsonWebKeySet,
    owner_key: Ed25519PrivateKey,
    *,
    now: datetime,
    actor: Actor = OWNER,
) -> int:
    """Sign the statements of all releases again, with other keys of the broker. Return the number of statements.

    Revoked releases are left out: the broker issues no attestation results for them. Statements that this owner did not
    sign are left out too: an attacker who breaks into a broker can write to its database, and must not get a signature.
    So are statements of another version, whose facts can be missing.
    """
    count = 0
    for release_id in statements.releases_with_one(connection):
        release = releases.get(connection, release_id)
        if release.state is ReleaseState.REVOKED:
            continue
        former = _signed_by_the_owner(statements.find(connection, release_id), owner_key)
        if former is None:
            LOGGER.warning(
                "the statement of the release %s was not signed again, because the owner's key did not sign it, or it "
                "has another version: register the release again with `sealserve broker allow`",
                release_id,
            )
            continue
        brokers = tuple(_stated(broker.name, keys) for broker in former.brokers)
        new = former.model_copy(update={"brokers": brokers, "issued": max(int(now.timestamp()), former.issued + 1)})
        statements.put(connection, release, sign_statement(new, owner_key), now=now, actor=actor)
        count += 1
    return count


def any_stated(connection: Connection) -> bool:
    """Return whether a release has a statement."""
    return next(statements.releases_with_one(connection), None) is not None


def _stated(name: str, keys: JsonWebKeySet) -> StatedBroker:
    return StatedBroker.of_keys(name, JsonWebKeySet(keys.keys[:_MOST_KEYS]))


def _signed_by_the_owner(stored: SignedContent | None, owner_key: Ed25519PrivateKey) -> ReleaseStatement | None:
    """Return the content of a stored statement, or None if this key did not sign it or it cannot be used.

    The database proves only that a broker wrote the row.
    """
    try:
        return None if stored is None else verify_statement(stored, [owner_key.public_key().public_bytes_raw()])
    except SealserveError:
        return None


def _digest(built: Release, model: ModelSection) -> str | None:
    prefix = f"{MODELS_FOLDER}/{model.name}/{model.version}/"
    files = {
        file.path.removeprefix(prefix): (file.size, file.sha256) for file in built.plain if file.path.startswith(prefix)
    }
    try:
        return model_digest(files)
    except ValueError:  # the path of a file contains a new line
        return None


def _recorded(workspace: Workspace, verified: VerifiedRelease) -> tuple[StatedModel, ...]:
    try:
        record = _Record.model_validate_json(read_regular(_place(workspace, verified.folder.name)))
    except (SealserveError, ValidationError) as error:
        raise _impossible(verified.folder.name, "there is no record of its models") from error
    if record.release_id != verified.id:
        raise _impossible(verified.folder.name, "the record of its models is for another release")
    # The signed index names the signers, because `release build` verified the signatures of the models.
    return tuple(
        StatedModel.model_validate(
            {
                **model.model_dump(),
                "signer": verified.index.signer(model.name, int(model.version)),
            }
        )
        for model in record.models
    )


def _impossible(release: str, why: str, *, hint: str = "Run `sealserve release build`.") -> SealserveError:
    return OwnerCode.RELEASE_STATEMENT.error(f"The release {release} cannot be stated for users: {why}.", hint=hint)


def _place(workspace: Workspace, release: str) -> Path:
    return workspace.owner.provenance / "statements" / f"{release}.json"
