"""An explicit-state model of both conversations: every interleaving of two sessions of each, and an attacker.

The participants are the production code: both sides of ``sealserve-attest/1``, both sides of the evidence, and the six
steps. The model replaces two parts by their ideal behavior:

- **TLS.** An endpoint cannot read, change or move the messages between two others. The client knows the key of the
  server's certificate, and the server has the private key. Each connection has its own exporter.
- **Processors.** Only an enclave gets quotes with its measurement.

The attacker is the host and the network. It decides who connects to whom, and in which order. It can be an endpoint,
and can send any combination of values that it has seen or made. It also has:

- the complete evidence of an enclave of the release that ran in the past, with the signature of one nonce;
- a genuine enclave of another release of the same owner, with a valid statement and attestation result;
- an enclave with its own code, which gets a quote for any report data;
- one stolen TLS key: of the broker, or of the enclave that ran in the past. (Nothing covers the TLS key of the running
  enclave: see the test.)

A running enclave answers every user. So the attacker has the signature of each nonce that it knows, without a step:
more knowledge never prevents a later step.

A rule that is switched off is replaced by a constant in the environment, so that the production code stays the same.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Literal, NamedTuple

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from scripts.attested_example import NOW, Example, digest

from sealserve.attestation.attest_conversation import BrokerSession, EnclaveSession, certificate_request
from sealserve.attestation.attest_messages import Challenge, EvidenceMessage
from sealserve.attestation.framing import LENGTH_SIZE
from sealserve.attestation.keyset import Keyset
from sealserve.attestation.session_binding import service_report_data, session_report_data, signed_nonce
from sealserve.attested.evidence import ServiceEvidence
from sealserve.attested.user_policy import UserPolicy, tcb_preset
from sealserve.attested.verification import Step, StepFailedError, verify_service
from sealserve.errors import SealserveError
from sealserve.sgx.quote import Quote as ParsedQuote

SESSIONS = (0, 1)
Stolen = Literal["broker", "enclave", "running enclave"]
Rule = Literal["nonce", "exporter", "keyset"]
TIME = NOW + timedelta(minutes=1)


class State(NamedTuple):
    """A state. Strings name the state of each session, so that equal states are found again.

    Args:
        brokers: The broker's sessions: ``idle``, ``attacker``, ``enclave 0``, ``enclave 1`` or ``done``.
        enclaves: The enclave's sessions: ``idle``, ``waiting`` or ``done``.
        users: The users' sessions: ``idle``, ``attacker`` (its own key), ``stolen`` (the stolen key) or ``done``.
        nonces: The nonces that the attacker knows.
        messages: The evidence messages that the attacker received: the enclave's session, and the nonce.
    """

    brokers: tuple[str, ...]
    enclaves: tuple[str, ...]
    users: tuple[str, ...]
    nonces: frozenset[bytes]
    messages: frozenset[tuple[int, bytes]]


@dataclass(frozen=True)
class Explored:
    """The result of an exploration.

    Args:
        states: The number of different states.
        attack: The steps of the shortest attack and its effect, or `None`.
    """

    states: int
    attack: tuple[str, ...] | None


QuoteName = tuple[str, bytes]
"""The enclave of a quote, and its report data."""
SignatureName = tuple[str, str, bytes]
"""The signer of a nonce, the participant whose TLS key it covers, and the nonce."""
Values = tuple[str, QuoteName, str, str]
"""Evidence without its signature: the participant of the keyset, quote, attestation result, and statement."""


class Model:
    """The participants and the attacker.

    Args:
        example: Its vendor certifies the platforms of all participants.
        stolen: Whose TLS key the attacker has.
        pinned: Whether the users pin the enclave in place of the owner's key.
        off: The rule that is switched off, or `None`. Switch off ``keyset`` with `switch_off_keysets`.
    """

    def __init__(self, example: Example, *, stolen: Stolen, pinned: bool = False, off: Rule | None = None) -> None:
        self.stolen = stolen
        self.off = off
        self.running = Example(example.folder, shared=example)
        self.past = Example(example.folder, name="past", shared=example)
        self.other = Example(example.folder, name="other", enclave="other release", shared=example)
        self.attacker = Example(example.folder, name="attacker", enclave="attacker", shared=example)
        self.attacker.release_id = self.running.release_id  # it claims the release for its own keys
        self.genuine = {part.name: part for part in (self.running, self.past, self.other)}
        self.everyone = {**self.genuine, self.attacker.name: self.attacker}
        self.policy = UserPolicy(
            tcb=tcb_preset("cloud-smt"),
            owner_keys=() if pinned else (example.owner.public_key().public_bytes_raw(),),
            enclaves=(example.reference_values,) if pinned else (),
            releases=frozenset({example.release_id}),
            dangerous_simulated_root=example.vendor.anchor,
        )
        self._evidence = {name: part.evidence() for name, part in self.genuine.items()}
        self._keysets = {name: part.keyset.to_bytes() for name, part in self.everyone.items()}
        self._requests = {name: certificate_request(part.tls_key) for name, part in self.everyone.items()}
        victim = self.running if stolen == "running enclave" else self.past
        self._certificates = {
            name: part.certificate.public_bytes(Encoding.DER)
            for name, part in (("attacker", self.attacker), ("stolen", victim), ("enclave", self.running))
        }
        self._made: dict[object, bytes] = {}
        self._checked: dict[object, bool] = {}

    # The environment, in which a rule can be switched off

    def nonce(self, name: str) -> bytes:
        """Return a nonce, which is different for each session."""
        return digest("constant" if self.off == "nonce" else f"nonce of {name}")

    def exporter(self, *ends: str) -> bytes:
        """Return the exporter of the connection between two sessions."""
        return digest("constant" if self.off == "exporter" else f"exporter of {ends}")

    # Exploration

    def explore(self) -> Explored:
        """Visit every state, in order of the number of steps, until an attack is found."""
        idle = ("idle",) * len(SESSIONS)
        start = State(idle, idle, idle, frozenset({self.nonce("attacker"), self.nonce("past")}), frozenset())
        seen: dict[State, tuple[State, str] | None] = {start: None}
        waiting = deque([start])
        while waiting:
            state = waiting.popleft()
            if (effect := self._effect(state)) is not None:
                return Explored(len(seen), (*_path(seen, state), effect))
            for step, following in self._steps(state):
                if following not in seen:
                    seen[following] = state, step
                    waiting.append(following)
        return Explored(len(seen), None)

    def _steps(self, state: State) -> Iterator[tuple[str, State]]:
        yield from self._broker_steps(state)
        yield from self._enclave_steps(state)
        yield from self._user_steps(state)

    def _broker_steps(self, state: State) -> Iterator[tuple[str, State]]:
        for i in SESSIONS:
            found = state.brokers[i]
            if found == "idle":
                nonces = state.nonces | {self.nonce(f"broker {i}")}
                opened = state._replace(brokers=_with(state.brokers, i, "attacker"), nonces=nonces)
                yield f"the attacker opens broker session {i}", opened
                for j in SESSIONS:
                    if state.enclaves[j] == "idle":
                        brokers = _with(state.brokers, i, f"enclave {j}")
                        waiting = state._replace(brokers=brokers, enclaves=_with(state.enclaves, j, "waiting"))
                        yield f"enclave session {j} opens broker session {i}", waiting
            elif found == "attacker":
                yield f"broker session {i} times out", state._replace(brokers=_with(state.brokers, i, "done"))
            elif found != "done":
                j = int(found.split()[1])
                self._check_honest_session(i, j)
                ended = state._replace(
                    brokers=_with(state.brokers, i, "done"), enclaves=_with(state.enclaves, j, "done")
                )
                yield f"broker session {i} accepts enclave session {j}", ended

    def _enclave_steps(self, state: State) -> Iterator[tuple[str, State]]:
        if self.stolen != "broker":
            return
        for j, nonce in itertools.product(SESSIONS, sorted(state.nonces)):
            if state.enclaves[j] == "idle":
                answered = state._replace(
                    enclaves=_with(state.enclaves, j, "done"), messages=state.messages | {(j, nonce)}
                )
                yield f"the attacker challenges enclave session {j} as the broker", answered

    def _user_steps(self, state: State) -> Iterator[tuple[str, State]]:
        endpoints = ("attacker",) if self.stolen == "broker" else ("attacker", "stolen")
        for u in SESSIONS:
            if state.users[u] == "idle":
                self._check_honest_user(u)
                yield f"user {u} connects to the enclave", state._replace(users=_with(state.users, u, "done"))
                nonces = state.nonces | {self.nonce(f"user {u}")}
                for endpoint in endpoints:
                    asked = state._replace(users=_with(state.users, u, endpoint), nonces=nonces)
                    yield f"user {u} connects to the attacker with the {endpoint} key", asked
            elif state.users[u] != "done":
                yield f"user {u} times out", state._replace(users=_with(state.users, u, "done"))

    # Honest sessions succeed, or the model would prove nothing

    def _check_honest_session(self, i: int, j: int) -> None:
        def succeeds() -> bool:
            nonce, exporter = self.nonce(f"broker {i}"), self.exporter(f"broker {i}", f"enclave {j}")
            return self._broker_accepts(self._message(nonce, exporter), nonce, exporter)

        assert self._cached(("session", i, j), succeeds)

    def _check_honest_user(self, u: int) -> None:
        def succeeds() -> bool:
            nonce = self.nonce(f"user {u}")
            evidence = ServiceEvidence.parse(self.running.service().answer(nonce))
            return self._failed_step(evidence, nonce, self._certificates["enclave"]) is None

        assert self._cached(("user", u), succeeds)

    # The attacker's messages

    def _effect(self, state: State) -> str | None:
        """Return the effect of a message that the attacker can send now, or `None`."""
        for i in SESSIONS:
            if state.brokers[i] == "attacker" and self._cached(
                ("broker", i, state.messages), partial(self._fools_broker, i, state)
            ):
                return f"the broker releases the key to the attacker in session {i}"
        for u in SESSIONS:
            if state.users[u] in self._certificates and self._cached(
                (state.users[u], u, state.nonces, state.messages), partial(self._fools_user, u, state)
            ):
                return f"user {u} accepts the attacker with the {state.users[u]} key"
        return None

    def _quotes(self, state: State, own: Iterable[bytes]) -> list[QuoteName]:
        """Return the attacker's quotes: of genuine enclaves, and of the attacker's enclave for any report data."""
        genuine = [(name, service_report_data(part.keyset.digest)) for name, part in self.genuine.items()]
        received = [(self.running.name, self._session_data(message)) for message in state.messages]
        return [*genuine, *received, *((self.attacker.name, report_data) for report_data in own)]

    def _session_data(self, message: tuple[int, bytes]) -> bytes:
        session, nonce = message
        exporter = self.exporter("attacker", f"enclave {session}")
        return session_report_data(nonce=nonce, exporter=exporter, keyset_digest=self.running.keyset.digest)

    def _fools_broker(self, session: int, state: State) -> bool:
        """Try each combination of a quote, a keyset and a certificate request in a session of the attacker."""
        nonce, exporter = self.nonce(f"broker {session}"), self.exporter(f"broker {session}", "attacker")
        own = [
            session_report_data(nonce=nonce, exporter=exporter, keyset_digest=part.keyset.digest)
            for part in self.everyone.values()
        ]
        return any(
            self._cached((session, *tried), partial(self._accepted, tried, nonce, exporter))
            for tried in itertools.product(self._quotes(state, own), self.everyone, self.everyone)
        )

    def _accepted(self, tried: tuple[QuoteName, str, str], nonce: bytes, exporter: bytes) -> bool:
        quote, keyset, request = tried
        message = EvidenceMessage(
            purpose="start",
            quote=self._quote(quote),
            keyset=self._keysets[keyset],
            certificate_request=self._requests[request],
        )
        return self._broker_accepts(message.to_bytes(), nonce, exporter)

    def _broker_accepts(self, message: bytes, nonce: bytes, exporter: bytes) -> bool:
        """Return whether the broker releases the key after a message. Its policy is the measurement."""
        try:
            presented = BrokerSession(nonce=nonce, exporter=exporter).receive(message)
            report = ParsedQuote.parse(presented.quote).report
            if report.mr_enclave != self.running.reference_values.mr_enclave:
                return False
            presented.bind(report_data=report.report_data, release_id=self.running.release_id)
        except SealserveError:
            return False
        return True

    def _fools_user(self, user: int, state: State) -> bool:
        """Try each combination of keyset, quote, attestation result, statement and signature of a nonce."""
        nonce, endpoint = self.nonce(f"user {user}"), state.users[user]
        signatures: list[SignatureName] = [("past", "past", self.nonce("past"))]
        signatures += [(name, name, known) for name in (self.running.name, "other") for known in state.nonces]
        signatures += [(self.attacker.name, name, nonce) for name in self.everyone]
        own = [service_report_data(part.keyset.digest) for part in self.everyone.values()]
        values = itertools.product(self.everyone, self._quotes(state, own), self.genuine, (self.running.name, "other"))
        # Steps 5 and 6 depend on nonce and connection. They run only for values that pass the steps before them.
        plausible = [found for found in values if self._cached(found, partial(self._plausible, found))]
        return any(
            self._cached((endpoint, user, *tried), partial(self._believed, tried, nonce, endpoint))
            for tried in itertools.product(plausible, signatures)
        )

    def _plausible(self, values: Values) -> bool:
        evidence = self._with_values(values, bytes(64))
        return self._failed_step(evidence, bytes(32), self._certificates["enclave"]) is Step.FRESHNESS

    def _believed(self, tried: tuple[Values, SignatureName], nonce: bytes, endpoint: str) -> bool:
        values, (signer, covered, signed) = tried
        content = signed_nonce(nonce=signed, tls_key_digest=self.everyone[covered].keyset.tls_key_digest)
        evidence = self._with_values(values, self.everyone[signer].identity.sign(content))
        return self._failed_step(evidence, nonce, self._certificates[endpoint]) is None

    def _failed_step(self, evidence: ServiceEvidence, nonce: bytes, certificate: bytes) -> Step | None:
        try:
            verify_service(evidence, nonce=nonce, certificate=certificate, policy=self.policy, now=TIME)
        except StepFailedError as error:
            return error.step
        return None

    def _with_values(self, values: Values, signature: bytes) -> ServiceEvidence:
        keyset, quote, result, statement = values
        return self._evidence[self.running.name].model_copy(
            update={
                "keyset": self._keysets[keyset],
                "quote": self._quote(quote),
                "attestation_result": self._evidence[result].attestation_result,
                "statement": self._evidence[statement].statement,
                "nonce_signature": signature,
            }
        )

    def _message(self, nonce: bytes, exporter: bytes) -> bytes:
        """Return the evidence message of the enclave for a nonce on a connection with this exporter."""
        part = self.running
        session = EnclaveSession(keyset=part.keyset, purpose="start", certificate_request=self._requests[part.name])
        presenting = session.receive(Challenge(nonce=nonce).to_bytes()).bind(exporter)
        frame, _ = presenting.present(self._quote((part.name, presenting.report_data)))
        return frame[LENGTH_SIZE:]

    def _quote(self, name: QuoteName) -> bytes:
        if name not in self._made:
            self._made[name] = self.everyone[name[0]].quote(name[1])
        return self._made[name]

    def _cached(self, key: object, check: Callable[[], bool]) -> bool:
        if key not in self._checked:
            self._checked[key] = check()
        return self._checked[key]


def switch_off_keysets(patch: pytest.MonkeyPatch) -> None:
    """Let report data and attestation results cover no keyset: its digest is a constant for every participant."""
    patch.setattr(Keyset, "digest", property(lambda _: digest("constant")))


def _with(sessions: tuple[str, ...], session: int, found: str) -> tuple[str, ...]:
    return (*sessions[:session], found, *sessions[session + 1 :])


def _path(seen: Mapping[State, tuple[State, str] | None], state: State) -> list[str]:
    steps: list[str] = []
    while (before := seen[state]) is not None:
        state, step = before
        steps.insert(0, step)
    return steps
