"""The environment of an enclave: an allow list of variables, each with its accepted values.

A variable can make a library load other code, write a log or a dump that the host can read, or send data elsewhere.
It can also change how random numbers and memory are handled. Hundreds of such variables exist, and each version of a
library may add more. Therefore a variable that is not in this list is rejected by its name.

Source: Gramine 1.9, ``tools/sgx/ra-tls/secret_prov.h``; glibc manual, "Standard Environment Variables" and ld.so(8);
OpenMP 5.2, chapter 21; tensorflow/tensorflow ``tsl/platform/default/logging.cc``, ``core/util/dump_graph.cc``;
grpc ``doc/environment_variables.md``; Python documentation, "Environment variables" and ``ssl``.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from sealserve.enclave.findings import Danger
from sealserve.enclave.mount_places import MountPlaces
from sealserve.terms import PlatformKind

KEY_NAME: Final = "release"
PROVISIONING_LIBRARY: Final = "libsecret_prov_attest.so"
BROKER_CA_FILE: Final = "broker-ca.pem"
BROKER_CA_PATH: Final = f"/{BROKER_CA_FILE}"
CA_VARIABLE: Final = "SECRET_PROVISION_CA_CHAIN_PATH"
DEVICE_VARIABLE: Final = "SEALSERVE_ATTESTATION_DEVICE"
"""The variable with the folder of the attestation device. Only a server that attests itself has it."""
GRAMINE_DEVICE: Final = "/dev/attestation"
SIMULATED_DEVICE: Final = "/release/attestation"
"""The folder of a simulated enclave's device, in its private memory. On SGX it does not exist."""

_COUNT: Final = re.compile(r"[1-9][0-9]{0,4}")
_SERVER: Final = r"[A-Za-z0-9.-]+:[0-9]{1,5}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """A variable that an enclave may have.

    Args:
        accepts: Returns whether a value is accepted.
        expected: Description of the accepted values, for messages.
        needed: Whether the enclave cannot get its key without the variable. No option allows other values then.
        danger: The class of findings that a rejected value belongs to.
    """

    accepts: Callable[[str, MountPlaces], bool]
    expected: str
    needed: bool = False
    danger: Danger = Danger.ENVIRONMENT


def _exactly(*values: str, needed: bool = False) -> Variable:
    expected = " or ".join(map(repr, values))
    return Variable(accepts=lambda value, _: value in values, expected=expected, needed=needed)


def _matching(pattern: str | re.Pattern[str], expected: str, *, needed: bool = False) -> Variable:
    compiled = re.compile(pattern)
    return Variable(accepts=lambda value, _: compiled.fullmatch(value) is not None, expected=expected, needed=needed)


def _is_library_path(value: str, places: MountPlaces) -> bool:
    # An empty element would mean the current directory.
    return all(places.is_trusted(folder) for folder in value.split(":"))


_LOCALE: Final = _matching(r"(C|POSIX|[a-z]{2,3}_[A-Z]{2})(\.UTF-8)?", "a locale such as 'C.UTF-8'")
_THREADS: Final = _matching(_COUNT, "a number of threads")
_SCRATCH: Final = Variable(
    accepts=lambda value, places: places.is_scratch(value), expected="a folder in a tmpfs mount of the enclave"
)

VARIABLES: Final[Mapping[str, Variable]] = {
    # Required by the provisioning library and the broker.
    "LD_PRELOAD": _exactly(PROVISIONING_LIBRARY, needed=True),
    DEVICE_VARIABLE: _exactly(GRAMINE_DEVICE, SIMULATED_DEVICE, needed=True),
    "SEALSERVE_PLATFORM": _exactly(*PlatformKind, needed=True),
    "SEALSERVE_RELEASE_ID": _matching(r"[0-9a-f]{64}", "a release id: 64 hexadecimal digits", needed=True),
    CA_VARIABLE: _exactly(BROKER_CA_PATH, needed=True),
    "SECRET_PROVISION_CONSTRUCTOR": _exactly("1", needed=True),
    "SECRET_PROVISION_SERVERS": _matching(
        rf"{_SERVER}([,; ]+{_SERVER})*", "HOST:PORT, several joined by ';'", needed=True
    ),
    "SECRET_PROVISION_SET_KEY": _exactly(KEY_NAME, needed=True),
    # Also set by sealserve.
    "HOME": _SCRATCH,
    "LANG": _LOCALE,
    "LD_LIBRARY_PATH": Variable(
        accepts=_is_library_path, expected="absolute folders in host mounts, whose files are measured"
    ),
    "MALLOC_ARENA_MAX": _matching(_COUNT, "a number of arenas"),
    "OMP_NUM_THREADS": _THREADS,
    "TF_CPP_MIN_LOG_LEVEL": Variable(
        accepts=lambda value, _: value in {"1", "2", "3"},
        expected="'1', '2' or '3': TensorFlow's information messages name parts of the model",
        danger=Danger.LOG,
    ),
    "TF_NUM_INTEROP_THREADS": _THREADS,
    "TF_NUM_INTRAOP_THREADS": _THREADS,
    "TMPDIR": _SCRATCH,
    # An owner may add these variables: they affect only performance and the form of texts.
    "KMP_BLOCKTIME": _matching(r"[0-9]{1,9}|infinite", "milliseconds, or 'infinite'"),
    "LC_ALL": _LOCALE,
    "MKL_NUM_THREADS": _THREADS,
    "OMP_PROC_BIND": _exactly("true", "false", "close", "spread"),
    "OMP_WAIT_POLICY": _exactly("ACTIVE", "PASSIVE", "active", "passive"),
    "TF_ENABLE_ONEDNN_OPTS": _exactly("0", "1"),
    "TZ": _matching(r"[A-Z][A-Za-z_]*(/[A-Za-z0-9_+-]+){0,2}", "a time zone such as 'Europe/Berlin'"),
}
"""The variables that an enclave may have. All others are rejected. See docs/reference/manifest.md."""

PRELOADED: Final = ("LD_PRELOAD", "SECRET_PROVISION_CONSTRUCTOR")
"""The variables that make Gramine's provisioning library get the key. A server that attests itself has neither."""


def needed_variables(environment: Collection[str]) -> Iterator[str]:
    """Yield the variables that an enclave with these variables needs to get its key."""
    attests = DEVICE_VARIABLE in environment
    for name, variable in VARIABLES.items():
        if variable.needed and name not in (PRELOADED if attests else (DEVICE_VARIABLE,)):
            yield name


_LEAKING: Final = re.compile(
    r"GRPC_(TRACE|VERBOSITY|.*LOG.*)|SSLKEYLOGFILE|TF_CPP_.*|TF_DUMP_.*|.*_VERBOSE|LD_DEBUG.*|LD_TRACE.*|LD_PROFILE.*"
    r"|PYTHON(VERBOSE|PROFILEIMPORTTIME|DUMPREFS.*|FAULTHANDLER|MALLOCSTATS|ASYNCIODEBUG|DEVMODE|TRACEMALLOC)"
    r"|(TF_)?XLA_FLAGS|GLOG_.*|.*_LOG_LEVEL|MALLOC_TRACE|NCCL_DEBUG.*"
)


def why_unknown(name: str) -> tuple[str, Danger]:
    """Return why a variable that is not in `VARIABLES` is rejected, and the class that allows it."""
    if _LEAKING.fullmatch(name):
        return "it makes a library log or dump data, which the host can read", Danger.LOG
    reason = "the variable is not in sealserve's allow list: it may change what a library loads, logs or sends"
    return reason, Danger.ENVIRONMENT
