"""``sealserve user trust``: the key of an owner whose services a user accepts."""

import contextlib
import hashlib
from pathlib import Path
from typing import Annotated

import typer

from sealserve.cli import completion
from sealserve.cli.attested_options import PolicyFile, policy_path, warn_of_dangers
from sealserve.cli.deferred_imports import deferred
from sealserve.cli.output import Output
from sealserve.cli.verbs import Verbs

with deferred:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    from sealserve.atomic_file import PRIVATE, write_file
    from sealserve.attested.user_policy import LARGEST_FILE, parse_user_policy
    from sealserve.client.policy_file import parse_owner_key, trusting
    from sealserve.pki.certificate import only_certificates
    from sealserve.regular_file import InputFileMissingError, read_regular

app = Verbs(unused=("sealserve.cli.user",))  # a user has only the base installation


@app.command()
def trust(
    result: Output,
    owner_key: Annotated[
        str,
        typer.Argument(
            metavar="OWNER_KEY", help="Public key of the owner: 64 hexadecimal digits, or a PEM file (owner.pub)"
        ),
    ],
    policy: PolicyFile = None,
    release: Annotated[
        list[str] | None,
        typer.Option(
            "--release",
            "-r",
            metavar="ID",
            help="Id of a release to pin, 64 hexadecimal digits; repeatable",
            show_default="none: every release of the owner",
        ),
    ] = None,
    tcb: Annotated[
        str | None,
        typer.Option(
            help="Accepted TCB statuses: strict or cloud-smt",
            show_default="cloud-smt",
            autocompletion=completion.presets,
        ),
    ] = None,
    dangerous_operation: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Operation of TensorFlow that models may use, although it can keep or send your inputs; repeatable",
            show_default="none",
        ),
    ] = None,
    dangerous_shared_batches: Annotated[
        bool,
        typer.Option(
            "--dangerous-shared-batches",
            help="Accept services that compute the requests of several users in one batch: a model can mix their data",
        ),
    ] = False,
    dangerous_simulated_root: Annotated[
        Path | None,
        typer.Option(
            help="Root certificate (PEM or DER) of a simulated vendor; the policy then accepts only simulated services",
            show_default="none",
        ),
    ] = None,
) -> None:
    """Pin the public key of a service's owner in your policy file. `sealserve verify` accepts only pinned owners.

    Ask the owner for the key over a trusted channel. The host and the service cannot supply it.
    """  # fmt: skip
    key = parse_owner_key(owner_key)
    place = policy_path(policy)
    root = None
    if dangerous_simulated_root is not None:
        root = _root_pem(dangerous_simulated_root)
    try:
        present = read_regular(place, limit=LARGEST_FILE)
    except InputFileMissingError:
        present = None
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    made = trusting(
        present,
        owner_key=key,
        releases=[identifier.lower() for identifier in release or []],
        preset=tcb,
        dangerous_operations=dangerous_operation or [],
        dangerous_shared_batches=dangerous_shared_batches,
        dangerous_simulated_root=root,
    )
    write_file(place, made, mode=PRIVATE, overwrite=True)
    # The file can also have settings of earlier commands.
    accepted = parse_user_policy(made)
    warn_of_dangers(place, accepted)
    notes = []
    if len(accepted.owner_keys) > 1:
        notes.append(f"It pins {len(accepted.owner_keys)} owners. All other settings in it apply to each of them.")
    if accepted.releases:
        notes.append(f"It accepts only {len(accepted.releases)} pinned releases.")
    fingerprint = hashlib.sha256(key).hexdigest()
    result.show(
        {"policy": str(place), "owner_key": key.hex(), "owner_key_sha256": fingerprint, "releases": release or []},
        f"{place} accepts services of the owner {key.hex()}.",
        *notes,
        "Next: `sealserve verify ADDRESS`, or `sealserve predict --require-attested`.",
    )


def _root_pem(path: Path) -> str:
    """Return a root certificate as PEM. In the owner's workspace, ``simulated-root.der`` is DER."""
    content = read_regular(path, limit=LARGEST_FILE)
    with contextlib.suppress(ValueError, x509.InvalidVersion):  # not DER
        content = x509.load_der_x509_certificate(content).public_bytes(Encoding.PEM)
    return only_certificates(content, source=str(path)).decode()
