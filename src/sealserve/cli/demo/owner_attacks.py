"""Attacks of the owner on a user's input, and the same attacks in the old way, where they succeed.

The owner has all of ``.sealserve/owner`` and ``.sealserve/host``, and her machine is in the path. TLS 1.3 uses new keys
for each connection, so no private key decrypts a recording. A private key of the service allows an active attack: the
owner ends the user's connection with it.
"""

import contextlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import grpc
import numpy.typing as npt
from cryptography import x509

from sealserve.bundle import Destination, EnclavePlace
from sealserve.cli.demo import found_keys, user
from sealserve.cli.demo.attempts import Attacker, Attempt, Findings, Refusal, not_refused, refused_by_user
from sealserve.cli.demo.between import Between
from sealserve.cli.demo.found_keys import KeySearch
from sealserve.cli.demo.stage import SECONDS, Stage
from sealserve.cli.generated_input import guesses
from sealserve.cli.tensor_input import read_inputs
from sealserve.client.channel import ServiceChannel, open_channel
from sealserve.client.credentials import parse_endpoint
from sealserve.client.noted_connection import noted_connection
from sealserve.client.predict import Predictor
from sealserve.cluster import ports
from sealserve.cluster.local.target import LocalTarget
from sealserve.errors import SealserveError
from sealserve.owner import releases
from sealserve.owner.preparation import prepare
from sealserve.pki.authority import AuthorityKind
from sealserve.pki.certificate import CertifiedKey
from sealserve.pki.signing import certificate_pem
from sealserve.secret import SecretBytes

_OLD_WAY: Final = "server.dangerous_owner_tls_key = true"
_BEGINNING: Final = 4096  # the first frame of HTTP/2 contains at least as many bytes of a request


class OwnerAttacks:
    """An owner who wants to read a user's input.

    Args:
        stage: The genuine service and its user.
    """

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def attempts(self) -> list[Attempt]:
        """Return the attacks, in order."""
        return [
            Attempt(
                title="issue a second, valid certificate for her own key, and sit in the path",
                explanation="The owner's service authority signs the certificate, for the service's name. A client "
                "that checks only the certificate accepts it, and the owner reads the input. The verification compares "
                "the key of the connection with the enclave's key.",
                expected="evidence.tls-key",
                act=self._second_certificate,
                attacker=Attacker.OWNER,
            ),
            Attempt(
                title="decrypt a recorded connection with every key that she and the host have",
                explanation="The owner records the connection of a user. She searches her own folder, the host's "
                "folder, her keystore, and the sealed files, which she opens with the release key. TLS 1.3 uses new "
                "keys for each connection, so a recording stays secret in any case. A private key that fits the "
                "certificate of the connection would allow an active attack. She finds none.",
                expected=None,
                act=self._search_keys,
                attacker=Attacker.OWNER,
                verdict="she finds no key",
            ),
            Attempt(
                title=f"do the same with a release of the old way ({_OLD_WAY})",
                explanation="In the old way, the owner created the service's TLS key, and sealed it into the release. "
                "She opens it again, ends the user's connection with it, and reads the input. A user of the old way "
                "cannot notice it. A user who requires evidence sends nothing to such a service.",
                expected=None,
                act=self._old_way,
                attacker=Attacker.OWNER,
                verdict="she reads the input",
                in_the_old_way=True,
            ),
        ]

    def _second_certificate(self) -> Refusal:
        stage = self._stage
        service = stage.walk.deployment.service
        pair = stage.authority(AuthorityKind.SERVICE).issue_server((service.name,), now=datetime.now(UTC))
        with self._stage.in_path(stage.service, pair) as owner:
            # A client that checks only the certificate.
            with self._channel(owner) as channel:
                request = self._request(channel)
                _send(channel, request)
            if request[:_BEGINNING] not in owner.sent:
                raise not_refused("The comparison failed: the owner did not read the input of a client without policy.")
        with self._stage.in_path(stage.service, pair) as owner:
            # A client that requires evidence.
            refusal = refused_by_user(
                lambda: self._channel(owner, attested=True),
                ("old check", f"passes: the service authority signed the certificate for {service.name}"),
                ("read", f"the owner reads {len(request)} bytes of the input of a client that checks only this"),
            )
            if request[:_BEGINNING] in owner.sent:
                raise not_refused("The attack was not refused: the owner read the input.")
        return refusal

    def _search_keys(self) -> Findings:
        stage = self._stage
        certificate, request, recorder = self._record(stage.service)
        found = found_keys.search(stage.workspace, [stage.built.folder])
        if fitting := found.fitting([certificate]):
            raise not_refused(f"The attack succeeded: {fitting[0].place} contains the TLS key of the service.")
        return Findings(
            facts=(
                *_recorded(recorder, request),
                *_tried(found),
                ("fitting", "no private key belongs to the certificate of the connection"),
                ("input read", f"0 of {len(request)} bytes"),
            )
        )

    def _old_way(self) -> Findings:
        stage = self._stage
        service, folder = self._old_service()
        certificate, request, recorder = self._record(service, attested=False)
        found = found_keys.search(stage.workspace, [folder])
        fitting = found.fitting([certificate])
        if not fitting:
            raise not_refused("The comparison failed: the owner did not find the TLS key that she sealed.")
        pair = CertifiedKey(
            key_pem=SecretBytes(fitting[0].pem()),
            chain_pem=certificate_pem(x509.load_der_x509_certificate(certificate)),
        )
        with self._stage.in_path(service, pair) as owner, self._channel(owner) as channel:
            _send(channel, request)
        if request[:_BEGINNING] not in owner.sent:
            raise not_refused("The comparison failed: the owner did not read the input with the service's own key.")
        try:
            self._channel_to(service, attested=True)
        except SealserveError as error:
            refused = f"{error.code}: {error.message}"
        else:
            raise not_refused("A user who requires evidence accepted a service without evidence.")
        return Findings(
            facts=(
                *_recorded(recorder, request),
                *_tried(found),
                ("fitting", f"1 private key belongs to the certificate of the connection: {fitting[0].place}"),
                ("input read", f"{len(request)} of {len(request)} bytes, with the service's own certificate and key"),
                ("with a policy", refused),
            )
        )

    def _record(self, service: tuple[str, int], *, attested: bool = True) -> tuple[bytes, bytes, Between]:
        """Record a user's connection. Return the certificate of the connection, the request, and the recording."""
        stage = self._stage
        with Between(service) as recorder:
            with noted_connection(parse_endpoint(recorder.address), user.tls_of(stage.reach), timeout=SECONDS) as noted:
                certificate = noted.certificate
            with self._channel(recorder, attested=attested) as channel:
                request = self._request(channel)
                _send(channel, request)
        if request[:_BEGINNING] in recorder.sent:
            raise not_refused("The attack succeeded: the recording contains the input.")
        return certificate, request, recorder

    def _old_service(self) -> tuple[tuple[str, int], Path]:
        """Build, start and return a service of the old way, and the folder of its release."""
        stage = self._stage
        deployment = stage.walk.deployment
        server = deployment.server.model_copy(update={"dangerous_owner_tls_key": True})
        old = deployment.model_copy(update={"server": server})
        built = releases.build(stage.workspace, old, now=datetime.now(UTC))
        place = EnclavePlace(name="replica-1", port=ports.find_free(), in_use=False)
        bundle = prepare(stage.workspace, built.folder, Destination(deployment=old, enclaves=(place,)))
        target = LocalTarget(stage.workspace, old)
        process = target.start_replica(bundle, 1)
        target.wait_replica(process)
        return ("127.0.0.1", place.port), built.folder

    def _channel(self, place: Between, *, attested: bool = False) -> ServiceChannel:
        return self._channel_to(("127.0.0.1", place.port), attested=attested)

    def _channel_to(self, place: tuple[str, int], *, attested: bool) -> ServiceChannel:
        """Open a user's connection. She checks the service's CA, and with ``attested`` also the evidence."""
        reach = self._stage.reach
        return open_channel(
            f"{place[0]}:{place[1]}",
            server_name=reach.server_name,
            ca=reach.ca,
            certificate=reach.certificate,
            key=reach.key,
            timeout=SECONDS,
            attested=self._stage.policy if attested else None,
        )

    def _request(self, channel: ServiceChannel) -> bytes:
        """Return a user's request for the model, with generated inputs."""
        model = self._stage.walk.deployment.model.name
        name, signature = next(iter(Predictor([channel]).metadata(model, timeout=SECONDS).signatures.items()))
        inputs: Mapping[str, npt.NDArray[Any]] = read_inputs([], signature).complete(
            batch=1, seed=0, guess=guesses(signature)[0]
        )
        return user.request_message(model, inputs, signature=name)


def _send(channel: ServiceChannel, request: bytes) -> None:
    """Send a request. Generated inputs may not fit a model, but the service receives them anyway."""
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.current(timeout=SECONDS).unary_unary(user.PREDICT)
    with contextlib.suppress(grpc.RpcError):
        call(request, timeout=SECONDS)


def _recorded(recorder: Between, request: bytes) -> tuple[tuple[str, str], ...]:
    text = (
        f"{len(recorder.sent)} bytes from the user and {len(recorder.answered)} bytes to her, with an input of "
        f"{len(request)} bytes"
    )
    return (("recorded", text),)


def _tried(found: KeySearch) -> tuple[tuple[str, str], ...]:
    text = (
        f"{len(found.keys)} private keys: in {found.files} files of the owner and the host, in her keystore, and in "
        f"{found.opened} sealed files that she opened"
    )
    return (("tried", text),)
