"""Attacks with evidence: on the user's verification, and on the broker's.

A hostile host ends the user's connection itself, and presents evidence that is genuine but not for this connection. Or
it shows genuine evidence to the broker in a separate session.
"""

from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

from sealserve.attestation.session_binding import PROTOCOL, service_report_data
from sealserve.attested.evidence_conversation import EvidenceService
from sealserve.broker import admin
from sealserve.cli.demo.attempts import Attacker, Attempt, Refusal, refused_by_user
from sealserve.cli.demo.between import Between, beginning, ending
from sealserve.cli.demo.evidence import short
from sealserve.cli.demo.launch_attacks import change_argument, changed_copy, own_key
from sealserve.cli.demo.preparation import REPLICAS
from sealserve.cli.demo.stage import NAME, SECONDS, AttestedEnclave, Stage, own_certificate
from sealserve.client.attested import verify_endpoint
from sealserve.enclave.signing import resign
from sealserve.owner.certificates import broker_certificate
from sealserve.owner.owner import Owner
from sealserve.sealing.release import Release


class EvidenceAttacks:
    """A hostile host, and a thief in the network, with genuine evidence.

    Args:
        stage: The genuine service and its user.
    """

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._other: tuple[Release, AttestedEnclave] | None = None

    def attempts(self) -> list[Attempt]:
        """Return the attacks, in order."""
        return [
            Attempt(
                title="relay the genuine evidence of the enclave, on a connection that ends at its own TLS key",
                explanation="This is the relay attack on attested TLS (CVE-2026-33697). The host forwards the user's "
                "nonce to the enclave, and the enclave's answer to the user. The evidence is genuine and fresh. It "
                "names the enclave's TLS key, so the user notices that the connection ends elsewhere.",
                expected="evidence.tls-key",
                act=self._relay,
            ),
            Attempt(
                title="sign the user's nonce with an identity key that it stole",
                explanation="Root can read the memory of a simulated enclave, so the host has the identity key here. "
                "The identity key signs any nonce, but the keyset also names the TLS key, which is not the "
                "connection's.",
                expected="evidence.tls-key",
                act=self._steal_identity,
            ),
            Attempt(
                title="replay evidence that it recorded earlier",
                explanation="The enclave that created the evidence may not run any more. The identity key signed the "
                "nonce of another request, not the nonce that the user just chose.",
                expected="evidence.nonce-signature",
                act=self._replay,
            ),
            Attempt(
                title="present the genuine quote together with its own keys",
                explanation="The host created TLS key and identity key itself, so it can sign the nonce, and the "
                "connection ends at its key. The broker's attestation result and the quote are for other keys.",
                expected="evidence.result-binding",
                act=self._own_keyset,
            ),
            Attempt(
                title="serve from an enclave with changed code",
                explanation="The host signed a changed manifest with its own key. The processor is genuine, and so is "
                "the quote. The owner's signed release statement does not list this MRENCLAVE.",
                expected="evidence.enclave-unknown",
                act=self._changed_code,
            ),
            Attempt(
                title="serve from an enclave in debug mode",
                explanation="The host can read the memory of an enclave in debug mode, also its TLS key. The quote "
                "shows this mode.",
                expected="quote.debug",
                act=self._debug,
            ),
            Attempt(
                title="serve from a platform below the user's policy",
                explanation="The platform lacks the vendor's last security update. The user decides herself which "
                "platforms she accepts, independently of the owner's broker.",
                expected="policy.tcb-status",
                act=self._old_platform,
            ),
            Attempt(
                title="serve another genuine release than the release that the user pinned",
                explanation="The owner signed this release too, and the broker accepts its enclave. The user examined "
                "one release, and pinned its id in her policy.",
                expected="evidence.release-not-pinned",
                act=self._other_release,
            ),
            Attempt(
                title="start a release that the owner revoked, and serve it",
                explanation="The broker gives a revoked release neither key nor certificate nor attestation result. "
                "Without a result, the user refuses. An enclave that already runs keeps its result until it expires, "
                "so a revocation takes effect within the validity of the result.",
                expected="evidence.no-result",
                act=self._revoked,
            ),
            Attempt(
                title="relay the evidence of the running enclave into its own session with the broker",
                explanation="The broker would release the key to the host. The quote must cover the broker's nonce, "
                "this TLS session and the keys in the message. The public quote covers none of them.",
                expected="attest.binding",
                act=self._relay_to_broker,
            ),
            Attempt(
                title="divert the session of a genuine enclave to its own session with the broker",
                explanation="The enclave connects to the thief, who forwards every message in a second session. Nonce "
                "and keys are right. The quote also covers a secret of the enclave's TLS session (the exporter), and "
                "the broker compares it with the secret of its own session. A nonce alone does not stop this attack.",
                expected="attest.binding",
                act=self._divert,
                attacker=Attacker.NETWORK,
            ),
        ]

    def _relay(self) -> Refusal:
        stage = self._stage
        with stage.in_path(stage.service, own_certificate(stage.reach.server_name)) as host:
            verify = partial(verify_endpoint, host.address, stage.policy, tls=stage.own_tls, timeout=SECONDS)
            return refused_by_user(verify)

    def _steal_identity(self) -> Refusal:
        enclave = self._stage.enclave(self._stage.release)
        return self._stage.present(self._evidence_of(enclave).answer)

    def _replay(self) -> Refusal:
        recorded = self._stage.recorded.evidence.to_bytes()
        return self._stage.present(lambda _nonce: recorded)

    def _own_keyset(self) -> Refusal:
        stage = self._stage
        keys = stage.new_keys(stage.release)
        return stage.present(stage.evidence(keys, stage.recorded.evidence.quote).answer, tls_key=keys.tls)

    def _changed_code(self) -> Refusal:
        stage = self._stage
        with changed_copy(stage.workspace, stage.release) as release:
            change_argument(release)
            resign(release, NAME, signing_key=own_key(), signed_on=datetime.now(UTC).date())
            keys = stage.new_keys(release)
            return stage.present(stage.served_by(release, keys).answer, tls_key=keys.tls)

    def _debug(self) -> Refusal:
        stage = self._stage
        with changed_copy(stage.workspace, stage.release) as release:
            resign(release, NAME, signing_key=own_key(), signed_on=datetime.now(UTC).date(), dangerous_debug=True)
            keys = stage.new_keys(release)
            return stage.present(stage.served_by(release, keys).answer, tls_key=keys.tls)

    def _old_platform(self) -> Refusal:
        stage = self._stage
        keys = stage.new_keys(stage.release)
        with stage.old_platform() as (_, socket):
            evidence = stage.served_by(stage.release, keys, socket=socket)
        return stage.present(evidence.answer, ("policy", f"TCB preset {stage.policy.tcb.name}"), tls_key=keys.tls)

    def _other_release(self) -> Refusal:
        stage = self._stage
        built, enclave = self._second_release()
        pinned = replace(stage.policy, releases=frozenset({stage.built.id}))
        facts = (("pinned", short(stage.built.id)), ("served", short(built.id)))
        return stage.present(self._evidence_of(enclave).answer, *facts, tls_key=enclave.keys.tls, policy=pinned)

    def _revoked(self) -> Refusal:
        stage = self._stage
        built, enclave = self._second_release()
        with Owner.open(stage.workspace).vault() as vault:
            admin.revoke(vault.database, built.folder.name, now=datetime.now(UTC))
        keys = stage.new_keys(enclave.release)
        refused = stage.refused_by_broker(partial(stage.attest, enclave.release, keys))
        evidence = replace(self._evidence_of(enclave), attestation_result=None)
        fact = ("the broker", f"refuses the start: {refused.code}: {refused.message}")
        return stage.present(evidence.answer, fact, tls_key=enclave.keys.tls)

    def _relay_to_broker(self) -> Refusal:
        stage = self._stage
        keys, quote = stage.new_keys(stage.release), stage.recorded.evidence.quote
        return stage.refused_by_broker(partial(stage.attest, stage.release, keys, quote_for=lambda _data: quote))

    def _divert(self) -> Refusal:
        stage = self._stage
        stolen = broker_certificate(stage.workspace)
        protocol = PROTOCOL.decode()
        to_enclave = ending(stolen.chain_pem, stolen.key_pem.reveal(), protocol=protocol)
        broker = stage.broker_of(stage.release)
        with Between(broker, end=to_enclave, begin=beginning(protocol=protocol), name=broker[0]) as thief:
            keys = stage.new_keys(stage.release)
            return stage.refused_by_broker(partial(stage.attest, stage.release, keys, port=thief.port))

    def _second_release(self) -> tuple[Release, AttestedEnclave]:
        """Return another genuine release of the owner, and a genuine enclave of it."""
        if self._other is None:
            built = self._stage.walk.seal()
            folder = self._stage.walk.prepare_release(built.folder, REPLICAS).folder
            self._other = built, self._stage.enclave(folder)
        return self._other

    def _evidence_of(self, enclave: AttestedEnclave) -> EvidenceService:
        """Return the evidence of an enclave that the broker accepted."""
        return EvidenceService(
            keyset=enclave.keys.keyset,
            identity=enclave.keys.identity,
            quote=self._stage.quote(enclave.release, service_report_data(enclave.keys.keyset.digest)),
            collateral=enclave.grant.collateral,
            attestation_result=enclave.grant.attestation_result,
            statement=enclave.grant.statement,
        )
