"""``sealserve broker token``: the keys of attestation results, and the verification of a result."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from sealserve.cli import console, options, remote_broker
from sealserve.cli.codes import CliCode
from sealserve.cli.context import Context, Place
from sealserve.cli.deferred_imports import deferred
from sealserve.cli.verbs import Verbs

with deferred:
    from sealserve.attestation.json_web_keys import MAXIMUM_KEY_SET, JsonWebKeySet
    from sealserve.attestation.json_web_signature import MAXIMUM_TOKEN
    from sealserve.attestation.result import AttestationResult
    from sealserve.attestation.result_token import verify_result
    from sealserve.attestation.strict_encoding import decode_base64url
    from sealserve.cli.administration import administration
    from sealserve.regular_file import read_regular

app = Verbs("Verify attestation results, and manage the keys that sign them.")

_NONCE_HELP = "Nonce that you gave to the enclave, in base64url without padding"


@app.command()
def keys(context: Context) -> None:
    """Print the public keys that verify attestation results, as a JWK set (JWKS).

    Give the output to the users over a channel that they trust. The set contains the current key and former keys.
    """
    with administration(context) as broker:
        console.out.print(broker.token_keys().to_bytes().decode().rstrip("\n"), soft_wrap=True)


@app.command()
def rotate(
    context: Context,
    compromised: Annotated[
        bool,
        typer.Option("--compromised", help="Remove all former keys from the JWK set: their tokens no longer verify"),
    ] = False,
    yes: options.Yes = False,
) -> None:
    """Replace the key that signs attestation results.

    Tokens of the former key verify until they expire. A running broker signs with the new key within a few seconds.
    """
    console.confirm("Replace the token signing key? Users need the new JWK set.", yes=yes)
    with administration(context) as broker:
        rotated = broker.rotate_token_key(compromised=compromised)
    current, *former = rotated.keys
    fields = {"key": current.key_id, "former keys": "\n".join(key.key_id for key in former) or "none"}
    context.show({"key": current.key_id, "former_keys": [key.key_id for key in former]}, fields)
    context.say("Next: give the output of `sealserve broker token keys` to the users.")


@app.command()
def verify(
    context: Context,
    path: Annotated[Path, typer.Argument(metavar="TOKEN", help="File with the token")],
    issuer: Annotated[str, typer.Option("--issuer", help="Name of the broker, as in broker.name")],
    audience: Annotated[str, typer.Option("--audience", help="Audience that the enclave requested the token for")],
    jwks: Annotated[
        Path | None,
        typer.Option("--jwks", help="File with the broker's JWK set", show_default="ask the broker of --broker"),
    ] = None,
    nonce: Annotated[str | None, typer.Option("--nonce", help=_NONCE_HELP, show_default="not checked")] = None,
    at: Annotated[
        datetime | None, typer.Option("--at", help="Time (UTC) for which validity is checked", show_default="now")
    ] = None,
    accept_simulated: Annotated[
        bool,
        typer.Option("--dangerous-accept-simulated", help="Accept results of simulated enclaves, for tests only"),
    ] = False,
) -> None:
    """Verify an attestation result, and show the enclave that it describes."""
    if accept_simulated:
        console.warn("--dangerous-accept-simulated accepts results of simulated enclaves, which protect nothing.")
    try:
        expected = None if nonce is None else decode_base64url(nonce)
    except ValueError as error:
        raise CliCode.USAGE_ARGUMENTS.error(
            f"--nonce is not base64url without padding: {error}.", hint="Give the nonce as the enclave received it."
        ) from error
    content = read_regular(path, limit=2 * MAXIMUM_TOKEN)
    verified = verify_result(
        content.decode("ascii", "replace").removesuffix("\n"),
        _key_set(context, jwks),
        now=at.replace(tzinfo=UTC) if at else datetime.now(UTC),
        issuer=issuer,
        audience=audience,
        nonce=expected,
        dangerous_simulated=accept_simulated,
    )
    context.show(verified.to_claims(), _fields(verified))


def _key_set(place: Place, jwks: Path | None) -> JsonWebKeySet:
    """Return the keys in a file, or the keys of the remote broker, whose certificate authenticates them."""
    if jwks is not None:
        return JsonWebKeySet.parse(read_regular(jwks, limit=MAXIMUM_KEY_SET))
    if remote_broker.chosen() is None:
        raise CliCode.USAGE_MISSING.error(
            "The public keys that verify the result are missing.",
            hint="Specify the file of the broker's JWK set with --jwks, or a broker with --broker.",
        )
    with administration(place) as broker:
        return broker.token_keys()


def _fields(verified: AttestationResult) -> dict[str, object]:
    enclave = verified.enclave
    return {
        "status": verified.status.value,
        "simulated": "yes: nothing is protected" if verified.simulated else "no",
        "measurement": enclave.measurement.hex(),
        "signer": enclave.signer.hex(),
        "product id, security version": f"{enclave.product_id}, {enclave.security_version}",
        "release": verified.release_id,
        "TCB status": f"{verified.tcb_status} ({verified.tcb_date:%Y-%m-%d})",
        "advisories": ", ".join(verified.advisories) or "none",
        "public key (SHA-256)": verified.public_key_digest.hex(),
        "freshness of the evidence": verified.freshness.value,
        "issued (UTC)": f"{verified.issued:%Y-%m-%d %H:%M:%S}",
        "expires (UTC)": f"{verified.expires:%Y-%m-%d %H:%M:%S}",
        "token": verified.token_id,
    }
