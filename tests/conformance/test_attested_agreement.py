"""Random mutations of evidence: sealserve and the second implementation refuse the same, in the same step."""

import base64
import copy
import json
from collections.abc import Callable
from random import Random
from typing import Any, Final

import pytest
from tests.conformance.test_attested import BUNDLE, POLICY, SERVICE, at, verify
from tests.harness.second_verifier import Refused, verify_bundle

from sealserve.attested.verification import StepFailedError
from sealserve.canonical_document import canonical_json
from sealserve.errors import SealserveError

EVIDENCE: Final = ("quote", "keyset", "nonce_signature")
STATEMENT: Final = ("content", "signature")
BUNDLED: Final = ("nonce", "certificate")
ACCEPTED: Final = (0, "accepted")


def decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def encode(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def mutated(content: bytes, random: Random) -> bytes:
    """Return the content with one bit flipped, or with a few bytes removed, inserted or cut off."""
    changed = bytearray(content)
    where = random.randrange(len(changed))
    kind = random.randrange(10)
    if kind == 0:
        del changed[where : where + random.randrange(1, 5)]
    elif kind == 1:
        changed[where:where] = random.randbytes(random.randrange(1, 4))
    elif kind == 2:
        del changed[where:]
    else:
        changed[where] ^= 1 << random.randrange(8)
    return bytes(changed)


def mutation(random: Random) -> bytes:
    """Return a bundle with one mutation below its canonical JSON."""
    document: dict[str, Any] = copy.deepcopy(json.loads(BUNDLE))
    evidence = document["evidence"]
    places = [(evidence, name) for name in EVIDENCE]
    places += [(evidence["statement"], name) for name in STATEMENT]
    places += [(document, name) for name in BUNDLED]
    texts = [(evidence, "attestation_result"), *((evidence["collateral"], name) for name in evidence["collateral"])]
    holder, name = random.choice(places + texts)
    if (holder, name) in texts:
        holder[name] = mutated(holder[name].encode(), random).decode("latin-1")
    else:
        holder[name] = encode(mutated(decode(holder[name]), random))
    return canonical_json(document)


def verdict(action: Callable[[], object]) -> tuple[int, str]:
    """Return the failed step and the code, or `ACCEPTED`. Step 0 is the document."""
    try:
        action()
    except StepFailedError as error:
        return error.step.number, str(error.code)
    except SealserveError as error:
        return 0, str(error.code)
    except Refused as error:
        return error.step, error.code
    return ACCEPTED


@pytest.mark.parametrize("seed", range(10))
def test_both_implementations_agree_about_random_mutations(seed: int) -> None:
    random = Random(seed)  # noqa: S311  # reproducible mutations
    refused = 0
    for _ in range(30):
        content = mutation(random)
        first = verdict(lambda content=content: verify(content, POLICY, SERVICE["time"]))  # type: ignore[misc]
        second = verdict(lambda content=content: verify_bundle(content, POLICY, at(SERVICE["time"])))  # type: ignore[misc]
        # The second implementation names a code only where the page names exactly one.
        assert first[0] == second[0], content
        assert second[1] in {"", first[1]}, content
        refused += first != ACCEPTED
    # Accepted: names in the certificate of the connection, and a chain of the collateral that is not used.
    assert refused >= 20
