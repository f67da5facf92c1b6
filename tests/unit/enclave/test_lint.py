import copy
import logging
import tomllib
from collections.abc import Callable
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st
from tests.harness.errors import raises
from tests.harness.hostile_manifests import CASES, HARMLESS, Change
from tests.harness.model_server_command import COMMAND, PROGRAM

from sealserve.enclave.codes import EnclaveCode
from sealserve.enclave.findings import Danger, refuse
from sealserve.enclave.inventory import MeasuredFile
from sealserve.enclave.lint import lint
from sealserve.enclave.manifest import EncryptedMount
from sealserve.enclave.manifest_reader import examine, parse_manifest, refuse_template
from sealserve.enclave.mount_places import MountPlaces
from sealserve.enclave.server_flags import SEALED, judge_flags
from sealserve.enclave.server_program import Program, Server
from sealserve.enclave.spec import EnclaveSpec, make_manifest
from sealserve.errors import SealserveError, VerificationError
from sealserve.serving.command_line.flags import parse as parse_flags
from sealserve.serving_flags import FLAGS

MANIFEST = """\
libos.entrypoint = "/opt/python3"

[loader]
log_level = "error"
argv = [
    "/opt/python3",
    "-m",
    "sealserve.serving",
    "--ssl_config_file=/release/tls/ssl.cfg",
    "--file_list=/release/files.json",
    "--file_system_poll_wait_seconds=0",
]

[loader.env]
LANG = "C.UTF-8"

[fs]
root.type = "tmpfs"

[[fs.mounts]]
path = "/lib"
uri = "file:/usr/lib"

[[fs.mounts]]
type = "encrypted"
path = "/release/tls"
uri = "file:tls/"

[[fs.mounts]]
type = "encrypted"
path = "/release/files.json"
uri = "file:files.json"

[sys]
enable_sigterm_injection = true

[sgx]
debug = false
"""
SERVING = MANIFEST.replace("/opt/python3", "/usr/bin/tensorflow_model_server").replace(
    '    "-m",\n    "sealserve.serving",\n', '    "--enable_profiler=false",\n'
)


ATTESTING = (
    *(part.replace("sealserve.serving", "sealserve.attester") for part in COMMAND[:3]),
    *(flag for flag in COMMAND[3:] if "ssl_config" not in flag),
)


ONE_WAY_MOUNTS = (
    EncryptedMount(path="/release/files.json", uri="file:files.json"),
    EncryptedMount(path="/release/models", uri="file:models/"),
)


def test_a_server_that_attests_itself_needs_no_tls_settings_for_one_way_tls(
    make_spec: Callable[..., EnclaveSpec],
) -> None:
    spec = make_spec(attests=True, argv=ATTESTING, mounts=ONE_WAY_MOUNTS)
    raw = make_manifest(spec, broker_ca_sha256="0" * 64).to_bytes()

    assert lint(raw.decode()) == ()
    assert examine(raw, name="it").findings == ()


@pytest.mark.parametrize("place", ["/release/tls", "/release/other"])
@pytest.mark.parametrize("flag", [(), ("--ssl_config_file=",), ("-ssl_config_file=/release/tls/clients.cfg",)])
def test_a_server_that_attests_itself_needs_the_release_s_settings_for_client_certificates(
    make_spec: Callable[..., EnclaveSpec], place: str, flag: tuple[str, ...]
) -> None:
    mounts = (*ONE_WAY_MOUNTS, EncryptedMount(path=place, uri="file:tls/"))
    accepted = (*ATTESTING, f"--ssl_config_file={place}/clients.cfg")
    for argv, expected in ((accepted, []), ((*ATTESTING, *flag), [Danger.SERVER_FLAGS])):
        spec = make_spec(attests=True, argv=argv, mounts=mounts)
        findings = lint(make_manifest(spec, broker_ca_sha256="0" * 64).to_bytes().decode())
        assert [finding.danger for finding in findings] == expected
        assert all("clients without a certificate" in finding.reason for finding in findings)


@pytest.mark.parametrize(
    ("module", "attests", "changed", "code", "message"),
    [
        ("attester", True, {"LD_PRELOAD": "libsecret_prov_attest.so"}, "invalid", "must not be loaded"),
        ("attester", True, {"SECRET_PROVISION_CONSTRUCTOR": "1"}, "invalid", "must not be loaded"),
        ("attester", True, {"SEALSERVE_ATTESTATION_DEVICE": None}, "missing", "SEALSERVE_ATTESTATION_DEVICE"),
        ("attester", True, {"SEALSERVE_ATTESTATION_DEVICE": "/host/device"}, "invalid", "'/host/device'"),
        ("attester", True, {"SEALSERVE_RELEASE_ID": None}, "missing", "SEALSERVE_RELEASE_ID"),
        ("serving", False, {"SEALSERVE_ATTESTATION_DEVICE": "/dev/attestation"}, "invalid", "only for"),
        ("serving", True, {}, "invalid", "only for sealserve.attester"),
        (
            "attester",
            True,
            {"SEALSERVE_QUOTE_RELAY": f"1/{'a' * 64}"},
            "invalid",
            "only the launcher of gramine-direct",
        ),
        ("attester", True, {"SEALSERVE_QUOTE_RELAY": {"passthrough": True}}, "invalid", "only the launcher"),
    ],
)
def test_a_mixture_of_both_ways_to_get_the_key_is_refused(
    make_spec: Callable[..., EnclaveSpec],
    *,
    module: str,
    attests: bool,
    changed: dict[str, object],
    code: str,
    message: str,
) -> None:
    argv = ATTESTING if module == "attester" else COMMAND
    data = make_manifest(make_spec(attests=attests, argv=argv), broker_ca_sha256="0" * 64).model_dump(exclude_none=True)
    environment = data["loader"]["env"]
    for name, value in changed.items():
        environment.pop(name, None)
        environment.update({} if value is None else {name: value})

    with raises(EnclaveCode.MANIFEST_INVALID_SETTING, EnclaveCode.MANIFEST_MISSING_SETTING, match=message) as caught:
        parse_manifest(tomli_w.dumps(data).encode(), dangerous=set(Danger))  # no option allows it

    assert code in caught.value.code


def test_what_sealserve_writes_has_no_findings(make_spec: Callable[..., EnclaveSpec]) -> None:
    assert lint(make_manifest(make_spec(), broker_ca_sha256="c" * 64).to_bytes().decode()) == ()
    assert lint(MANIFEST) == ()
    assert lint(SERVING) == ()


def line_of(text: str, part: str) -> int:
    return text[: text.index(part)].count("\n") + 1


def added(table: str, line: str) -> str:
    return MANIFEST.replace(f"[{table}]\n", f"[{table}]\n{line}\n")


TLS = '    "--ssl_config_file=/release/tls/ssl.cfg",\n'


@pytest.mark.parametrize(
    ("text", "part", "setting", "danger"),
    [
        *[
            (added(table, line), line, f"{table}.{line.split(' ')[0]}", danger)
            for table, line, danger in (
                ("loader", "insecure__use_cmdline_argv = true", "host-input"),
                ("loader", "insecure__use_host_env = true", "host-input"),
                ("loader", "insecure__disable_aslr = true", "insecure-settings"),
                ("sys", "insecure__allow_eventfd = true", "insecure-settings"),
                ("sys", "experimental__enable_flock = true", "insecure-settings"),
                ("sys", 'debug__mock_syscalls = [{ name = "x" }]', "debug"),
                ("sys", "allowed_ioctls = [{ request_code = 1 }]", "host-devices"),
                ("sgx", "insecure__rpc_thread_num = 4", "insecure-settings"),
                ("sgx", "insecure__allow_memfaults_without_exinfo = true", "insecure-settings"),
                ("loader", 'env_src_file = "file:env"', "host-input"),
                ("loader", 'argv_src_file = "file:argv"', "host-input"),
                ("loader.env", "PATH = { passthrough = true }", "host-input"),
                ("loader", 'log_file = "/log"', "log"),
                ("sgx", 'file_check_policy = "allow_all_but_log"', "host-files"),
                ("sgx", "enable_stats = true", "debug"),
                ("sgx", "vtune_profile = true", "debug"),
                ("loader.env", 'GRPC_TRACE = "http"', "log"),
                ("loader.env", 'TF_CPP_MAX_VLOG_LEVEL = "2"', "log"),
                ("loader.env", 'SSLKEYLOGFILE = "/tmp/keys"', "log"),
                ("loader.env", 'PYTHONPATH = "/x"', "environment"),
            )
        ],
        *[
            (MANIFEST.replace('"error"', f'"{level}"'), "log_level", "loader.log_level", "log")
            for level in ("warning", "debug", "trace", "all")
        ],
        *[
            (MANIFEST.replace('"file:/usr/lib"', f'"{uri}"'), "[[fs.mounts]]", "fs.mounts.0", danger)
            for uri, danger in (
                ("file:/", "host-files"), ("file:/usr/../", "host-files"), ("file:///.", "host-files"),
                ("file:a/../../..", "host-files"), ("dev:/dev/x", "host-devices"),
            )
        ],
        *[
            (MANIFEST.replace('path = "/lib"', changed), "[[fs.mounts]]", "fs.mounts.0", danger)
            for changed, danger in (
                ('path = "/"', "host-files"), ('path = "//"', "host-files"),
                ('path = "/lib"\ntype = "untrusted_shm"', "host-devices"),
            )
        ],
        (added("fs", 'insecure__keys.release = "00"'), "insecure__keys", "fs.insecure__keys", "manifest-keys"),
        (MANIFEST.replace('root.type = "tmpfs"\n', ""), "[fs]", "fs.root is missing", "host-files"),
        (MANIFEST.replace('root.type = "tmpfs"', 'root = { uri = "file:/" }'), "root =", "fs.root", "host-files"),
        (added("sgx", 'allowed_files = [\n "file:/etc/hosts",\n]'), '"file:/etc/hosts"', "sgx.allowed_files.0",
         "host-files"),
        (MANIFEST.replace("debug = false", "debug = true"), "debug = true", "sgx.debug", "debug"),
        (added("sgx", 'profile.enable = "main"'), "profile", "sgx.profile", "debug"),
        (MANIFEST.replace(TLS, ""), "argv", "--ssl_config_file is missing", "server-flags"),
        (MANIFEST.replace("=/release/tls/ssl.cfg", "="), "--ssl_config_file", "--ssl_config_file", "server-flags"),
        (MANIFEST.replace('.cfg",', '.cfg",\n"--dangerous_plaintext",'), "--dangerous", "--dangerous_plaintext",
         "server-flags"),
        (SERVING.replace("profiler=false", "profiler=true"), "--enable_profiler", "--enable_profiler", "server-flags"),
        (SERVING.replace("seconds=0", "seconds=1"), "--file_system", "--file_system_poll_wait_seconds", "server-flags"),
        (SERVING.replace('.cfg",', '.cfg", "--use_alts_credentials",'), "--use_alts", "--use_alts_credentials",
         "server-flags"),
        (MANIFEST.replace("/opt/python3", "/bin/sh"), "libos", "libos.entrypoint", "other-program"),
        (MANIFEST.replace("sealserve.serving", "runpy"), "runpy", "loader.argv.2", "other-program"),
        (MANIFEST.replace("/opt/python3", "/bin/sh", 1), '"/opt/python3"', "loader.argv.0", "other-program"),
    ],
)  # fmt: skip
def test_what_is_insecure_is_found_with_its_line(text: str, part: str, setting: str, danger: str) -> None:
    (finding,) = lint(text)
    line = line_of(text, part)
    assert (finding.line, finding.setting, finding.danger) == (line, setting, danger)
    with raises(EnclaveCode.MANIFEST_INSECURE, match=f"line {line}: {setting}: .*--dangerous-{danger}") as caught:
        refuse([finding], [other for other in Danger if other != danger], name="it")
    assert caught.value.code == "manifest.insecure"
    refuse([finding], [Danger(danger)], name="it")


@pytest.mark.parametrize("line", ["insecure__rpc_thread_num = 0", "enable_stats = false", 'profile.enable = "none"',
                                  "allowed_files = []", 'file_check_policy = "strict"'])  # fmt: skip
def test_what_is_off_is_no_finding(line: str) -> None:
    assert lint(added("sgx", line)) == ()


def test_one_way_tls_is_for_our_server_only() -> None:
    assert lint(MANIFEST, one_way_tls=True) == ()
    (finding,) = lint(SERVING, one_way_tls=True)
    assert (finding.line, finding.setting) == (line_of(SERVING, "--ssl_config_file"), "--ssl_config_file")
    assert "HandleReloadConfigRequest" in finding.reason


@pytest.fixture(scope="module")
def good() -> dict[str, Any]:
    """The parsed manifest that sealserve writes for a release with one model."""
    spec = EnclaveSpec(
        name="replica-0",
        release_id="a" * 64,
        argv=COMMAND,
        broker=("127.0.0.1", 4433),
        mounts=tuple(
            EncryptedMount(path=f"/release/{name}", uri=f"file:{name}{slash}")
            for name, slash in (("files.json", ""), ("models", "/"), ("tls", "/"))
        ),
        trusted_files=(MeasuredFile(path=PROGRAM, size=1, sha256="b" * 64),),
        simulated=True,
    )
    return tomllib.loads(make_manifest(spec, broker_ca_sha256="c" * 64).to_bytes().decode())


@pytest.mark.parametrize(("change", "setting", "danger"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_hostile_manifest_is_refused_by_the_lint_and_by_the_build(
    good: dict[str, Any], change: Change, setting: str | None, danger: str | None
) -> None:
    data = copy.deepcopy(good)
    change(data)
    raw = tomli_w.dumps(data).encode()

    findings = examine(raw, name="it").findings
    found = [finding for finding in findings if setting in {None, finding.setting}]
    assert danger in {finding.danger for finding in found}, findings
    with pytest.raises(VerificationError) as caught:
        parse_manifest(raw)
    assert caught.value.code in {
        "manifest.insecure", "manifest.missing-setting", "manifest.unknown-setting", "manifest.invalid-setting"
    }  # fmt: skip
    assert setting is None or setting in caught.value.message
    if danger is None:  # and no option allows it
        with pytest.raises(VerificationError):
            parse_manifest(raw, dangerous=list(Danger))
    elif {finding.danger for finding in findings} == {danger}:
        parse_manifest(raw, dangerous=[Danger(danger)])


def test_the_corpus_is_large_and_its_names_are_distinct() -> None:
    assert len(CASES) >= 60
    assert len({case[0] for case in CASES}) == len(CASES)


@pytest.mark.parametrize("change", [change for _, change in HARMLESS], ids=[name for name, _ in HARMLESS])
def test_what_an_owner_may_change_is_accepted(good: dict[str, Any], change: Change) -> None:
    data = copy.deepcopy(good)
    change(data)
    raw = tomli_w.dumps(data).encode()
    assert examine(raw, name="it").findings == ()
    assert all(isinstance(value, str) for value in parse_manifest(raw).loader.env.values())


def test_all_that_is_wrong_is_said_at_once(good: dict[str, Any]) -> None:
    data = copy.deepcopy(good)
    data["sgx"].update(debug=True, remote_attestation="none", seal_key={})
    del data["loader"]["env"]["LD_PRELOAD"], data["sys"]["enable_sigterm_injection"]
    with raises(EnclaveCode.MANIFEST_INSECURE) as caught:
        parse_manifest(tomli_w.dumps(data).encode())
    for part in (
        "sgx.debug: ",
        "sgx.remote_attestation: ",
        "the setting sgx.seal_key is not accepted",
        "the setting loader.env.LD_PRELOAD is missing",
        "the setting sys.enable_sigterm_injection is missing",
    ):
        assert part in caught.value.message


def test_a_message_names_a_limited_number_of_settings(good: dict[str, Any]) -> None:
    data = copy.deepcopy(good)
    data["sgx"]["trusted_files"] += [{"uri": f"file:/x{number}", "sha256": "x"} for number in range(5000)]
    with raises(EnclaveCode.MANIFEST_INVALID_SETTING, match=r"; and 4960 more\."):
        parse_manifest(tomli_w.dumps(data).encode())


@pytest.mark.parametrize(
    "text",
    [
        '# {{ "\\n" }}sgx.debug = true',
        "{% if true %}\nsgx.debug = true\n{% endif %}",
        'a = "{# x #}"',
        'libos.entrypoint = "{{ python }}"',
        "# {%- raw %}",
    ],
)
def test_a_template_is_refused_with_its_line(text: str) -> None:
    with raises(EnclaveCode.MANIFEST_TEMPLATE, match=r"it is a template: line 2 contains '\{") as caught:
        refuse_template(f"x = 1\n{text}\n".encode(), name="it")
    assert caught.value.code == "manifest.template"
    assert "gramine-manifest" in (caught.value.hint or "")


@pytest.mark.parametrize("depth", [50, 250, 300, 400, 900, 5000, 100_000])
@pytest.mark.parametrize("form", ["dots", "lists", "tables"])
def test_deep_nesting_is_an_error_with_a_code(depth: int, form: str) -> None:
    text = {
        "dots": ".".join(["a"] * min(depth, 5000)) + " = 1",  # finding the lines of longer manifests is slow
        "lists": "a = " + "[" * depth + "]" * depth,
        "tables": "a = " + "{b=" * depth + "1" + "}" * depth,
    }[form]
    with pytest.raises(VerificationError) as caught:
        parse_manifest(text.encode())
    assert caught.value.code.startswith("manifest.")


def test_a_long_value_is_not_repeated_in_full(good: dict[str, Any]) -> None:
    data = copy.deepcopy(good)
    data["sgx"]["trusted_files"] = "x" * 1_000_000
    with pytest.raises(VerificationError) as caught:
        parse_manifest(tomli_w.dumps(data).encode())
    assert len(caught.value.message) < 5000


def test_braces_of_toml_are_no_template() -> None:
    refuse_template(b'a = [ { b = { c = "}}" } } ]\nb = "%} #}"\n', name="it")


def test_each_flag_of_our_server_that_names_a_file_must_name_a_sealed_one() -> None:
    texts = {flag.name for flag in FLAGS if isinstance(flag.default, str)}
    files = {name for name in texts if name.endswith(("_file", "_path", "_list"))}
    assert files - set(SEALED) == {"grpc_socket_path"}, "it has the same TLS settings"


ARGUMENT = st.sampled_from(
    [
        "--ssl_config_file", "--ssl_config_file=/release/tls/ssl.cfg", "--ssl_config_file=", "/release/tls/ssl.cfg",
        "--file_list=/release/files.json", "--file_list", "/release/files.json", "--dangerous_plaintext", "false",
        "--dangerous_plaintext=false", "--dangerous_plaintext_rest", "--file_system_poll_wait_seconds=0",
        "--file_system_poll_wait_seconds", "0", "5", "--port", "--port=1", "--enable_batching", "-x", "--", "--help",
        "--model_base_path=/x", "--model_name", "--nodangerous_plaintext", "--file_list=/x",
    ]
)  # fmt: skip


@given(st.lists(ARGUMENT, max_size=8))
def test_our_servers_flags_are_read_as_the_server_reads_them(arguments: list[str]) -> None:
    places = MountPlaces({"/release/tls": "encrypted", "/release/files.json": "encrypted"})
    try:
        values = parse_flags(arguments, FLAGS)
    except SealserveError:
        return  # it does not start
    sealed = (values["ssl_config_file"], values["file_list"]) == (
        "/release/tls/ssl.cfg",
        "/release/files.json",
    )
    plaintext = values["dangerous_plaintext"] or values["dangerous_plaintext_rest"]
    polls = values["file_system_poll_wait_seconds"] != 0
    good = sealed and not plaintext and not polls and not values["model_base_path"]
    assert good == (not list(judge_flags(Program(server=Server.OWN), arguments, places, one_way_tls=False)))


def test_an_empty_manifest_and_one_of_other_types() -> None:
    (finding,) = lint("")
    assert (finding.line, finding.setting) == (1, "fs.root is missing")
    text = 'loader = 1\nfs = { root = "x", mounts = 3 }\nsgx = { allowed_files = "ab" }\nsys = []\n'
    assert {finding.danger for finding in lint(text)} == {Danger.HOST_FILES}


def test_all_findings_are_named_at_once_and_each_that_is_allowed_is_said(caplog: pytest.LogCaptureFixture) -> None:
    findings = lint(added("sgx", 'enable_stats = true\nallowed_files = ["file:/x"]'))
    with raises(EnclaveCode.MANIFEST_INSECURE, match=r"it is insecure: line \d+: .*; line \d+: .*\."):
        refuse(findings, (), name="it")
    with caplog.at_level(logging.WARNING):
        refuse(findings, list(Danger), name="it")
    assert [record.message.split(":")[0] for record in caplog.records] == ["dangerous", "dangerous"]
    assert all(danger.meaning for danger in Danger)


WORDS = [
    "loader",
    "env",
    "fs",
    "root",
    "mounts",
    "sgx",
    "sys",
    "argv",
    "log_level",
    "allowed_files",
    "profile",
    "enable",
    "debug",
    "type",
    "path",
    "uri",
    "passthrough",
    "insecure__keys",
    "debug__x",
    "file_check_policy",
    "libos",
    "entrypoint",
    "allowed_ioctls",
]
ANYTHING = st.recursive(
    st.booleans()
    | st.integers(0, 1)
    | st.sampled_from(["", "/", "tmpfs", "error", "tensorflow_model_server", "dev:x"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(WORDS), ANYTHING, max_size=5))
def test_whatever_a_manifest_holds_it_is_an_error_with_a_code_or_none(data: dict[str, Any]) -> None:
    text = tomli_w.dumps(data)
    findings = lint(text)
    assert all(1 <= finding.line <= max(1, len(text.splitlines())) for finding in findings)
    for dangerous in ((), list(Danger)):
        with pytest.raises(SealserveError):  # none of the texts is a complete manifest
            parse_manifest(text.encode(), dangerous=dangerous)
