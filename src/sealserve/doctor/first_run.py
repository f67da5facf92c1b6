"""Steps that verify sealserve on a machine with SGX for the first time, and what each step would confirm."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step.

    Attributes:
        shows: What the step confirms: a cell of docs/reference/compatibility.md.
        command: The command to run on the machine that ``where`` names.
        where: ``host`` or ``owner``.
        expect: The expected result.
    """

    shows: str
    command: str
    where: str
    expect: str


STEPS: Final = (
    Step(
        shows="processor, kernel, driver, EPC, aesmd, PCCS",
        command="sealserve doctor host --platform sgx",
        where="host",
        expect="no requirement is missing",
    ),
    Step(
        shows="Gramine's own tool reports the same facts",
        command="is-sgx-available; echo $?",
        where="host",
        expect="0, and the EPC size above",
    ),
    Step(
        shows="gramine-sgx-sign measures the enclave as the manifest describes it",
        command="sealserve enclave build --name replica-0 --port 8510 && sealserve enclave show",
        where="owner",
        expect="two builds have the same mr_enclave, and `gramine-sgx-sigstruct-view` prints it for the .sig file",
    ),
    Step(
        shows="the sealed release starts in a genuine enclave, and connects to the broker over TLS 1.3",
        command="sealserve enclave run --name replica-0",
        where="host",
        expect="the broker rejects the first attempt, because the platform is not enrolled yet",
    ),
    Step(
        shows="a genuine quote of this platform verifies, with the certificate chain from the PCCS",
        command="sealserve broker log --last 1",
        where="owner",
        expect="policy.platform-unknown, the platform's ID, and its TCB status",
    ),
    Step(
        shows="the TCB status and advisories of this platform, to choose a preset",
        command="sealserve broker platform enrol PLATFORM_ID --label NAME",
        where="owner",
        expect="with the preset `cloud-smt`, a TCB status that it accepts",
    ),
    Step(
        shows="the broker releases the key, and the enclave opens encrypted files of format 1.0",
        command="sealserve enclave run --name replica-0",
        where="host",
        expect="the server loads the model and listens; note how long it took",
    ),
    Step(
        shows="users get predictions",
        command="sealserve bench --requests 200",
        where="owner",
        expect="no errors, and a request rate to compare with the same machine without SGX",
    ),
    Step(
        shows="SIGTERM reaches the server inside the enclave",
        command="kill -TERM PID",
        where="host",
        expect="running requests finish, and the port closes",
    ),
    Step(
        shows="a modified sealed file prevents the start",
        command="printf x >> RELEASE/models/NAME/1/saved_model.pb; sealserve enclave run --name replica-0",
        where="host",
        expect="the server does not serve, and `release verify` names the file",
    ),
    Step(
        shows="root cannot read the model from memory",
        command="gcore PID; grep -c LAYER_NAME core.PID",
        where="host",
        expect="0: the name of a layer of your model is not in the memory that root can read",
    ),
)
