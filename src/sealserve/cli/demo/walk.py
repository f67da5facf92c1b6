"""The twelve steps of the demo, all on one machine."""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from sealserve.broker import admin
from sealserve.bundle import Bundle
from sealserve.cli import access, connection, console
from sealserve.cli.codes import CliCode
from sealserve.cli.demo import comparison, conversion_cache, preparation, proof, user
from sealserve.cli.demo.comparison import Reference
from sealserve.cli.demo.evidence import SHORT, Launches, tell_front
from sealserve.cli.demo.preparation import ModelChoice, Ports
from sealserve.cli.demo.screen import Screen
from sealserve.client.attested import AttestedPolicy, VerifiedEndpoint
from sealserve.client.load import LoadReport, Request, run_load
from sealserve.client.predict import Prediction
from sealserve.cluster.local.processes import Process, ProcessEndedError
from sealserve.cluster.local.target import LocalTarget
from sealserve.cluster.target import BROKER, PCS, PLATFORM
from sealserve.deployment import Deployment
from sealserve.errors import PortTakenError
from sealserve.interruptions import uninterrupted
from sealserve.model.saved_model import SavedModelInfo
from sealserve.owner import certificates, models, releases, simulation
from sealserve.owner.owner import Owner
from sealserve.owner.preparation import prepare
from sealserve.pcs_address import pcs_url
from sealserve.pki import certificate as pki
from sealserve.sealing.release import Release
from sealserve.sgx.pcs import API
from sealserve.terms import TlsMode
from sealserve.workspace import Workspace

REQUESTS = 50
CONNECTIONS = 4
PORT_ATTEMPTS = 3


class Walk:
    """One run of the demo.

    Args:
        workspace: The demo's workspace, empty except for the cache.
        screen: Shows each step.
        tell: Called with a short description before each task.
    """

    def __init__(self, workspace: Workspace, screen: Screen, *, tell: console.Tell) -> None:
        self._workspace = workspace
        self._screen = screen
        self._tell = tell
        self._deployment: Deployment | None = None
        self._describe: Callable[[Ports], Deployment] | None = None
        self._ports = Ports.choose()
        self._verified: list[VerifiedEndpoint] = []

    @property
    def workspace(self) -> Workspace:
        """The demo's workspace."""
        return self._workspace

    @property
    def deployment(self) -> Deployment:
        """The demo's deployment. It exists after `prepare`."""
        if self._deployment is None:
            raise RuntimeError("nothing is prepared yet")
        return self._deployment

    @property
    def target(self) -> LocalTarget:
        """The target that runs the demo: this machine."""
        return LocalTarget(self._workspace, self.deployment, tell=self._tell)

    def prepare(self, model: ModelChoice, *, seed: int, tls: TlsMode) -> Path:
        """Create the example model or use the user's model, and convert it.

        Returns:
            The folder of the SavedModel in the workspace.
        """
        workspace = self._workspace
        with console.quiet_libraries():
            if model.path is None:
                self._tell("Creating the example model ResNet50 v1.5")
                graph, made = preparation.example_graph(workspace, seed=seed)
                origin = [
                    (
                        "model",
                        f"ResNet50 v1.5, FP32, frozen graph, {graph.stat().st_size / 1e6:.0f} MB"
                        + ("" if made else " (created by an earlier run)"),
                    ),
                    ("weights", f"random, from seed {seed}: sealserve cannot ship a pretrained model"),
                ]
            else:
                graph, origin = model.path, [("model", f"{model.path} (your model)")]
            self._describe = partial(preparation.describe, workspace, model, graph, tls)
            self._deployment = self._describe(self._ports)
            folder, info, reused = self._convert(graph, is_example=model.path is None)
        size = f"{info.size / 1e6:.1f} MB in {info.files} files"
        self._screen.step(
            0,
            "The owner has a model",
            "The plaintext model is on the owner's machine, which is trusted. The host must never be able to read it.",
            *origin,
            ("SavedModel", f"{size}{' (converted by an earlier run)' if reused else ''}"),
        )
        return folder

    def _convert(self, graph: Path, *, is_example: bool) -> tuple[Path, SavedModelInfo, bool]:
        """Create the workspace's SavedModel.

        Returns:
            The SavedModel's folder, its description, and whether it came from the cache.
        """
        model = self.deployment.model
        entry = conversion_cache.entry_for(graph, model) if is_example else None
        if entry is not None:
            self._tell("Looking for the SavedModel of an earlier run")
            folder = models.planned_folder(self._workspace, model)
            if (info := conversion_cache.restore(entry, folder)) is not None:
                return folder, info, True
        self._tell("Converting the model to a SavedModel")
        imported = models.bring_in(self._workspace, model)
        if entry is not None:
            conversion_cache.keep(entry, imported.folder)
        return imported.folder, imported.info, False

    def compare(self, folder: Path, given: Sequence[str] = ()) -> Reference:
        """Compute TensorFlow's own answers, which are the reference for the served answers.

        Args:
            folder: The SavedModel.
            given: Inputs as ``NAME=VALUE``. Without inputs, they are generated.
        """
        self._tell(f"Computing {REQUESTS} reference answers with TensorFlow")
        with console.quiet_libraries():
            reference = comparison.compute(folder, REQUESTS, given)
        self._screen.step(
            0,
            f"TensorFlow computes {REQUESTS} reference answers",
            "TensorFlow runs the plaintext model in this process. Step ⑫ compares the answers of the enclaves with "
            "these answers, to show that sealing does not change the results.",
            ("rate", f"{reference.rate:.1f} requests/s in a plain loop, {reference.threads} threads"),
            *(("comparison", line) for line in reference.limits()),
        )
        return reference

    def certify(self) -> None:
        """Create the certificate authorities and the certificates."""
        self._tell("Creating certificates")
        made = certificates.create_certificates(self._workspace, self.deployment, now=datetime.now(UTC))
        mode = self.deployment.service.tls
        lines = [(item.role, ", ".join((*item.info.names, *item.info.permitted)) or item.info.subject) for item in made]
        self._screen.step(
            0,
            f"The owner creates three certificate authorities, and certificates for {mode} TLS",
            "Each authority signs for one purpose: the broker, the service or the users. Their private keys stay with "
            "the owner, so the host cannot impersonate the broker or a user. The service has no certificate yet: each "
            "enclave creates its own TLS key later, and the broker issues the certificate with the issuing authority.",
            *lines,
        )

    def start_vendor(self) -> None:
        """Do step 1.

        The broker also starts here: its port is part of the enclaves' measurement, so the demo must hold the port
        first.
        """
        now = datetime.now(UTC)
        vendor = simulation.open_vendor(self._workspace, now=now)
        platform = simulation.open_platform(self._workspace, now=now)
        for attempts_left in reversed(range(PORT_ATTEMPTS)):
            self._use_ports(Ports.choose())
            try:
                self.target.services.start(PCS, PLATFORM, BROKER)
                break
            except ProcessEndedError as error:  # another program took a port after `Ports.choose` found it free
                if "port.taken" not in error.message or not attempts_left:
                    raise
                self.target.down()
        published = json.loads(vendor.tcb_info(now=now).text)
        self._screen.step(
            1,
            "The processor's vendor certifies the platform",
            "The vendor gives each genuine processor a certificate (PCK, Provisioning Certification Key). It publishes "
            "which security updates of the trusted computing base are current (TCB info), how to recognize the "
            "vendor's quoting enclave (QE identity), and which certificates are revoked (CRLs). For SGX, the vendor "
            "is Intel. This demo uses a simulated vendor with its own root certificate.",
            ("PCK certificate", f"platform {platform.platform_id}, FMSPC {platform.chain.extension.fmspc}"),
            (
                "published",
                (
                    f"TCB info (evaluation {published['tcbEvaluationDataNumber']}), QE identity and CRLs, "
                    f"at {pcs_url(self.deployment)}{API}"
                ),
            ),
        )

    def _use_ports(self, chosen: Ports) -> None:
        if self._describe is None:
            raise RuntimeError("nothing is prepared yet")
        self._ports = chosen
        self._deployment = self._describe(chosen)

    def seal(self) -> Release:
        """Do the first part of step 2: build a sealed release."""
        self._tell("Sealing the release")
        return releases.build(self._workspace, self.deployment, now=datetime.now(UTC))

    def ship(self, built: Release, replicas: int) -> Bundle:
        """Do the second part of step 2: prepare the release for the host and copy it there."""
        bundle = self.prepare_release(built.folder, replicas)
        size = sum(file.size for file in built.index.files)
        self._screen.step(
            2,
            "The owner seals the model, and ships the release to the host",
            "A release is a folder of encrypted files with an index that the owner signed. The host stores the "
            "release, but it cannot read the files, and the enclave notices any change. The decryption key stays with "
            "the owner.",
            ("release", built.folder.name),
            (
                "files",
                f"{len(built.index.files)} encrypted files, {size / 1e6:.1f} MB, format {built.index.file_format}",
            ),
            ("index", "signed with Ed25519"),
            (
                "key",
                f"{built.index.key_id[:SHORT]}..., new for this release; stays in the owner's encrypted keystore",
            ),
        )
        return bundle

    def prepare_release(self, release: Path, replicas: int) -> Bundle:
        """Build and sign the enclaves of a release, register them with the broker, and copy the release to the host."""
        destination = self.target.destination(release.name, replicas)
        return prepare(self._workspace, release, destination, tell=self._tell)

    def start_replicas(self, bundle: Bundle, replicas: int) -> list[Process]:
        """Do steps 3 to 8, which each replica runs by itself."""
        processes = [self.target.start_replica(bundle, index) for index in range(replicas)]
        for process in processes:
            self._tell(f"{process.role} attests to the broker, decrypts the release and loads the model")
            self.target.wait_replica(process)
        with Owner.open(self._workspace).vault() as vault:
            granted = [row for row in admin.log(vault.database) if row.entry.decision == "released"]
        Launches(processes).tell(self._screen, granted, policy=self.deployment.tcb.preset)
        return processes

    def start_front(self) -> None:
        """Start NGINX. Steps 10 and 11 show it later, when connections have ended."""
        try:
            self.target.start_front()
        except PortTakenError:  # another program took the port after `Ports.choose` found it free
            self._use_ports(replace(self._ports, service=Ports.choose().service))
            self.target.start_front()

    def verify(self) -> AttestedPolicy:
        """Verify the service as a user, before the first input is sent, and return the user's policy.

        Raises:
            StepFailedError: A replica fails a step of the verification.
        """
        self._tell("A user verifies the service")
        policy = user.write_policy(self._workspace)
        reach = access.access(self._workspace, self.deployment)
        self._verified = user.verify_replicas(reach, policy, replicas=len(self.target.replicas()))
        user.show_verification(self._screen, self._verified)
        return policy

    def use(self, reference: Reference, policy: AttestedPolicy) -> LoadReport:
        """Do steps 9 to 12: send requests as a user, and compare the answers with the reference.

        Args:
            reference: The inputs, and TensorFlow's answers.
            policy: The user's policy, which each replica must satisfy before it receives an input.

        Raises:
            VerificationError: `demo.wrong-answer` if an answer differs, `demo.replica-silent` if a replica did not
                answer any request.
        """
        reach = access.access(self._workspace, self.deployment)
        differences: dict[int, float] = {}

        def make_request(number: int) -> Request:
            return Request(
                model=self.deployment.model.name, inputs=reference.inputs[number], signature=reference.signature
            )

        def check(number: int, answer: Prediction) -> None:
            differences[number] = reference.check(number, answer.outputs)

        self._tell(f"A user sends {REQUESTS} requests")
        with ExitStack() as stack:
            started = time.monotonic()
            opened = stack.enter_context(connection.channels(reach, CONNECTIONS, timeout=20, attested=policy))
            connected = time.monotonic() - started
            # The first call to each replica is not measured, because TensorFlow prepares the graph during it.
            first = run_load(opened, make_request, requests=CONNECTIONS, concurrency=CONNECTIONS)
            if first.first_error is not None:
                raise first.first_error
            report = run_load(opened, make_request, requests=REQUESTS, concurrency=CONNECTIONS, on_answer=check)
            signed = user.ask_for_receipt(opened, self.deployment.model.name, reference)
        if report.first_error is not None:
            raise report.first_error
        mode = self.deployment.service.tls
        lines = [("server certificate", f"{reach.server_name}, for a TLS key that an enclave created")]
        checked = "The service accepts every user who reaches it, because one-way TLS does not identify users."
        if reach.certificate is not None:
            name = pki.describe(reach.certificate)[0].names[0]
            lines.append(("client certificate", f"{name}, signed by the users authority"))
            checked = "The service also verifies the user's certificate."
        self._screen.step(
            9,
            f"A user connects with {mode} TLS that ends inside the enclave",
            "Each connection must end at a TLS key that the user verified. Only the enclave has this key: neither the "
            "owner nor the host has it. Requests and answers are therefore readable only to the user and the enclave. "
            f"{checked}",
            *lines,
            seconds=connected,
        )
        log = self._workspace.host.logs / "nginx-access.log"
        tell_front(self._screen, log, self.deployment.service.name, connections=CONNECTIONS)
        silent = len(self.target.replicas()) - len(report.instances)
        if silent > 0:
            raise CliCode.DEMO_REPLICA_SILENT.error(
                f"Each replica must answer requests, but {silent} of {len(self.target.replicas())} replicas did not "
                f"answer any of the {REQUESTS} requests.",
                hint="Read the replicas' logs: `sealserve logs`.",
            )
        self._screen.step(
            12,
            "The answers return to the user",
            "The answers return through the same encrypted connections. The demo compares each answer with "
            "TensorFlow's reference answer, and the speed with plain TensorFlow.",
            ("answers", reference.verdict(len(differences), max(differences.values()))),
            ("per replica", ", ".join(str(count) for count in report.instances.values())),
            (
                "served",
                (
                    f"{report.rate:.1f} requests/s through TLS and NGINX, from {len(report.instances)} replicas with "
                    f"{self.deployment.server.threads} thread each"
                ),
            ),
            ("plain TensorFlow", f"{reference.rate:.1f} requests/s in this process ({reference.threads} threads)"),
            ("ratio", f"{report.rate / reference.rate:.2f}"),
            seconds=report.seconds,
        )
        if signed is not None:
            user.show_receipt(self._screen, *signed)
        return report

    def prove(self, built: Release) -> None:
        """Search the host's files and all logs for secrets, and show the result.

        Raises:
            VerificationError: `demo.exposed`: A secret was found.
        """
        searching = "Searching the host's files for secrets"

        def show(done: int, of: int) -> None:
            self._tell(f"{searching}: {done / 1e6:.0f} of {of / 1e6:.0f} MB")

        self._tell(searching)
        served = [item.certificate for item in self._verified]
        found = proof.search(self._workspace, self.deployment, built.folder, served=served, progress=show)
        proof.show(self._screen, found)

    def keep(self, bundle: Bundle, replicas: int) -> None:
        """Leave the service as `sealserve up` would: supervised, and recorded as the release that serves."""
        self._tell("Leaving the service running")
        self.target.up(bundle, replicas)

    def stop(self) -> None:
        """Stop every process that the demo started. A second Ctrl-C takes effect only after this."""
        if self._deployment is None:
            return
        with uninterrupted():
            stopped = self.target.down()
        if stopped:
            self._screen.step(
                0,
                "Everything is stopped",
                "No process of the demo is left. The workspace still contains the keys, the release and the logs.",
                ("stopped", ", ".join(stopped)),
            )
