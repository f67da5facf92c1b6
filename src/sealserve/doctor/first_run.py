"""What the first person with an SGX machine should try, and what each step would show that nobody has seen yet."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing to try.

    Attributes:
        shows: What is known after it: a cell of docs/reference/compatibility.md.
        command: What to type, on the machine that ``where`` names.
        where: ``host`` or ``owner``.
        expect: What should be seen.
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
        expect="nothing is missing",
    ),
    Step(
        shows="that Gramine's own tool sees the same",
        command="is-sgx-available; echo $?",
        where="host",
        expect="0, and the EPC size above",
    ),
    Step(
        shows="that gramine-sgx-sign measures as the manifest says",
        command="sealserve enclave build --name replica-0 --port 8510 && sealserve enclave show",
        where="owner",
        expect="the same mr_enclave when it is built twice, and in `gramine-sgx-sigstruct-view` of the .sig file",
    ),
    Step(
        shows="that the sealed release starts in a real enclave, and reaches the broker over TLS 1.3",
        command="sealserve enclave run --name replica-0",
        where="host",
        expect="refused at first: the platform is not enrolled yet",
    ),
    Step(
        shows="that a genuine quote of this platform verifies, with the certificate chain that the PCCS gave",
        command="sealserve broker log --last 1",
        where="owner",
        expect="policy.platform-unknown, the platform's id, and its TCB status",
    ),
    Step(
        shows="the TCB status and advisories of this platform, for the presets",
        command="sealserve broker platform enrol PLATFORM_ID --label NAME",
        where="owner",
        expect="with `cloud-smt`, a status that it admits",
    ),
    Step(
        shows="that the key arrives, and encrypted files of format 1.0 open",
        command="sealserve enclave run --name replica-0",
        where="host",
        expect="the server loads the model and listens; how long it took",
    ),
    Step(
        shows="the answers",
        command="sealserve bench --requests 200",
        where="owner",
        expect="no errors; the rate, to compare with the same machine without SGX",
    ),
    Step(
        shows="that SIGTERM reaches the server inside",
        command="kill -TERM PID",
        where="host",
        expect="running requests finish, and the port closes",
    ),
    Step(
        shows="that a changed sealed file stops the start",
        command="printf x >> RELEASE/models/NAME/1/saved_model.pb; sealserve enclave run --name replica-0",
        where="host",
        expect="it does not serve, and `release verify` names the file",
    ),
    Step(
        shows="that root sees nothing",
        command="gcore PID; grep -c LAYER_NAME core.PID",
        where="host",
        expect="0: the name of a layer of your model is not in the memory that root can read",
    ),
)
