"""The twelve steps, on one machine."""

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
from sealserve.cli.demo import comparison, conversion_cache, preparation, proof
from sealserve.cli.demo.comparison import Reference
from sealserve.cli.demo.evidence import SHORT, Launches, tell_front
from sealserve.cli.demo.preparation import ModelChoice, Ports
from sealserve.cli.demo.screen import Screen
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
    """One demonstration.

    Args:
        workspace: Empty but for the cache.
        screen: Where it is told.
        tell: Called with a few words before each piece of work.
    """

    def __init__(self, workspace: Workspace, screen: Screen, *, tell: console.Tell) -> None:
        self._workspace = workspace
        self._screen = screen
        self._tell = tell
        self._deployment: Deployment | None = None
        self._describe: Callable[[Ports], Deployment] | None = None
        self._ports = Ports.choose()

    @property
    def workspace(self) -> Workspace:
        """Where it happens."""
        return self._workspace

    @property
    def deployment(self) -> Deployment:
        """What is demonstrated, once it is prepared."""
        if self._deployment is None:
            raise RuntimeError("nothing is prepared yet")
        return self._deployment

    @property
    def target(self) -> LocalTarget:
        """Where it runs."""
        return LocalTarget(self._workspace, self.deployment, tell=self._tell)

    def prepare(self, model: ModelChoice, *, seed: int, tls: TlsMode) -> Path:
        """Make or take the model and bring it into the workspace; return the SavedModel's folder."""
        workspace = self._workspace
        with console.quiet_libraries():
            if model.path is None:
                self._tell("making ResNet50 v1.5")
                graph, made = preparation.example_graph(workspace, seed=seed)
                origin = [
                    f"ResNet50 v1.5, FP32, frozen graph, {graph.stat().st_size / 1e6:.0f} MB"
                    + ("" if made else " (made by an earlier run)"),
                    f"weights and batch-norm values at random from seed {seed}: no pretrained file can be shipped",
                ]
            else:
                graph, origin = model.path, [f"yours: {model.path}"]
            self._describe = partial(preparation.describe, workspace, model, graph, tls)
            self._deployment = self._describe(self._ports)
            folder, info, reused = self._convert(graph, is_example=model.path is None)
        size = f"{info.size / 1e6:.1f} MB in {info.files} files"
        converted = f"converted to a SavedModel: {size}{' (by an earlier run)' if reused else ''}"
        self._screen.step(0, "The owner has a model", *origin, converted)
        return folder

    def _convert(self, graph: Path, *, is_example: bool) -> tuple[Path, SavedModelInfo, bool]:
        """Make the workspace's SavedModel; return its folder, what is in it, and whether it came from the cache."""
        model = self.deployment.model
        entry = conversion_cache.entry_for(graph, model) if is_example else None
        if entry is not None:
            self._tell("looking for a SavedModel of an earlier run")
            folder = models.planned_folder(self._workspace, model)
            if (info := conversion_cache.restore(entry, folder)) is not None:
                return folder, info, True
        self._tell("converting it to a SavedModel")
        imported = models.bring_in(self._workspace, model)
        if entry is not None:
            conversion_cache.keep(entry, imported.folder)
        return imported.folder, imported.info, False

    def compare(self, folder: Path, given: Sequence[str] = ()) -> Reference:
        """Compute TensorFlow's own answers to generated inputs, or to those that are given (``NAME=VALUE`` each)."""
        self._tell(f"asking TensorFlow itself for {REQUESTS} answers, to compare with")
        with console.quiet_libraries():
            reference = comparison.compute(folder, REQUESTS, given)
        self._screen.step(
            0,
            f"TensorFlow in this process answers {REQUESTS} requests, to compare with",
            f"{reference.rate:.1f} requests/s in a plain loop, {reference.threads} threads",
            *reference.limits(),
        )
        return reference

    def certify(self) -> None:
        """Make the certificates."""
        self._tell("making certificates")
        made = certificates.create_certificates(self._workspace, self.deployment, now=datetime.now(UTC))
        mode = self.deployment.service.tls
        lines = [
            f"{item.role}: {', '.join((*item.info.names, *item.info.permitted)) or item.info.subject}" for item in made
        ]
        self._screen.step(0, f"The owner has three certificate authorities, and certificates for {mode} TLS", *lines)

    def start_vendor(self) -> None:
        """Step 1. The broker starts as well, so that its port is ours before it is measured."""
        now = datetime.now(UTC)
        vendor = simulation.open_vendor(self._workspace, now=now)
        platform = simulation.open_platform(self._workspace, now=now)
        for attempts_left in reversed(range(PORT_ATTEMPTS)):
            self._use_ports(Ports.choose())
            try:
                self.target.services.start(PCS, PLATFORM, BROKER)
                break
            except ProcessEndedError as error:  # another program took a port since we looked
                if "port.taken" not in error.message or not attempts_left:
                    raise
                self.target.down()
        published = json.loads(vendor.tcb_info(now=now).text)
        self._screen.step(
            1,
            "The platform's certificates come from the processor's vendor (simulated, with a root of its own)",
            f"PCK certificate for platform {platform.platform_id}, FMSPC {platform.chain.extension.fmspc}",
            f"TCB info (evaluation {published['tcbEvaluationDataNumber']}), QE identity and CRLs "
            f"at {pcs_url(self.deployment)}{API}",
        )

    def _use_ports(self, chosen: Ports) -> None:
        if self._describe is None:
            raise RuntimeError("nothing is prepared yet")
        self._ports = chosen
        self._deployment = self._describe(chosen)

    def seal(self) -> Release:
        """Step 2, first part."""
        self._tell("sealing the release")
        return releases.build(self._workspace, self.deployment, now=datetime.now(UTC))

    def ship(self, built: Release, replicas: int) -> Bundle:
        """Step 2, second part."""
        bundle = self.prepare_release(built.folder, replicas)
        size = sum(file.size for file in built.index.files)
        self._screen.step(
            2,
            "The owner seals model and TLS material under a fresh key, and ships the release to the host",
            f"release {built.folder.name}, {len(built.index.files)} encrypted files, {size / 1e6:.1f} MB, "
            f"format {built.index.file_format}, index signed with Ed25519",
            f"key {built.index.key_id[:SHORT]}... stays in the owner's keystore, encrypted under the master key",
        )
        return bundle

    def prepare_release(self, release: Path, replicas: int) -> Bundle:
        """Prepare a release for this machine."""
        destination = self.target.destination(release.name, replicas)
        return prepare(self._workspace, release, destination, tell=self._tell)

    def start_replicas(self, bundle: Bundle, replicas: int) -> list[Process]:
        """Steps 3 to 8, which each replica does on its own."""
        processes = [self.target.start_replica(bundle, index) for index in range(replicas)]
        for process in processes:
            self._tell(f"{process.role} attests itself, opens the release and loads the model")
            self.target.wait_replica(process)
        with Owner.open(self._workspace).vault() as vault:
            granted = [row for row in admin.log(vault.database) if row.entry.decision == "released"]
        Launches(processes).tell(self._screen, granted, policy=self.deployment.tcb.preset)
        return processes

    def start_front(self) -> None:
        """Start NGINX; it is told when there are connections to speak of."""
        try:
            self.target.start_front()
        except PortTakenError:  # since we looked
            self._use_ports(replace(self._ports, service=Ports.choose().service))
            self.target.start_front()

    def use(self, reference: Reference) -> LoadReport:
        """Steps 9 to 12."""
        reach = access.access(self._workspace, self.deployment)
        differences: dict[int, float] = {}

        def make_request(number: int) -> Request:
            return Request(
                model=self.deployment.model.name, inputs=reference.inputs[number], signature=reference.signature
            )

        def check(number: int, answer: Prediction) -> None:
            differences[number] = reference.check(number, answer.outputs)

        self._tell(f"a user sends {REQUESTS} requests")
        with ExitStack() as stack:
            started = time.monotonic()
            opened = stack.enter_context(connection.channels(reach, CONNECTIONS, timeout=20))
            connected = time.monotonic() - started
            # As above, the first call is not counted: TensorFlow prepares the graph in it.
            first = run_load(opened, make_request, requests=CONNECTIONS, concurrency=CONNECTIONS)
            if first.first_error is not None:
                raise first.first_error
            report = run_load(opened, make_request, requests=REQUESTS, concurrency=CONNECTIONS, on_answer=check)
        if report.first_error is not None:
            raise report.first_error
        mode = self.deployment.service.tls
        lines = [
            f"server certificate for {reach.server_name}, from the service's authority; its key is in the enclave only"
        ]
        if reach.certificate is not None:
            lines.append(
                f"client certificate for {pki.describe(reach.certificate)[0].names[0]}, from the users' authority"
            )
        self._screen.step(9, f"A user connects with {mode} TLS that ends inside the enclave", *lines, seconds=connected)
        log = self._workspace.host.logs / "nginx-access.log"
        tell_front(self._screen, log, self.deployment.service.name, connections=CONNECTIONS)
        silent = len(self.target.replicas()) - len(report.instances)
        if silent > 0:
            raise CliCode.DEMO_REPLICA_SILENT.error(
                f"{silent} of the replicas answered none of the {REQUESTS} requests."
            )
        self._screen.step(
            12,
            "The answers return the same way",
            reference.verdict(len(differences), max(differences.values())),
            f"answers by replica: {', '.join(str(count) for count in report.instances.values())}",
            f"{report.rate:.1f} requests/s served (sealed, attested, TLS, NGINX, {len(report.instances)} replicas with "
            f"{self.deployment.server.threads} thread each), {reference.rate:.1f} requests/s in plain TensorFlow here "
            f"({reference.threads} threads): a ratio of {report.rate / reference.rate:.2f}",
            seconds=report.seconds,
        )
        return report

    def prove(self, built: Release) -> None:
        """Search what the host holds."""
        searching = "searching everything the host holds for the model and the keys"

        def show(done: int, of: int) -> None:
            self._tell(f"{searching}: {done / 1e6:.0f} of {of / 1e6:.0f} MB")

        self._tell(searching)
        found = proof.search(self._workspace, self.deployment, built.folder, progress=show)
        self._screen.step(
            0,
            "The proof: the host saw ciphertext only",
            "no 16-byte window of the model's files or the server's private key, and no release key,",
            f"in {found.files} files ({found.size / 1e6:.0f} MB): all under .sealserve/host/, and every log",
            "what the host sees:",
            *(f"  {line}" for line in found.view),
        )

    def stop(self) -> None:
        """Stop everything that was started. A second Ctrl-C waits until that is done."""
        if self._deployment is None:
            return
        with uninterrupted():
            stopped = self.target.down()
        if stopped:
            self._screen.step(0, "Everything is stopped", ", ".join(stopped))
