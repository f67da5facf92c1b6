import logging
from collections.abc import Callable
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from sealserve.enclave.lint import Danger, ManifestInsecureError, lint, refuse
from sealserve.enclave.manifest import parse_manifest
from sealserve.enclave.spec import EnclaveSpec, make_manifest
from sealserve.errors import SealserveError

MANIFEST = """\
libos.entrypoint = "/opt/python"

[loader]
log_level = "error"
argv = [
    "/opt/python",
    "-m",
    "sealserve.serving",
    "--ssl_config_file=/release/tls/ssl.cfg",
]

[loader.env]
insecure__name = "an environment variable may be called anything"

[fs]
root.type = "tmpfs"

[[fs.mounts]]
path = "/lib"
uri = "file:/usr/lib"

[sys]
enable_sigterm_injection = true

[sgx]
debug = false
"""
SERVING = MANIFEST.replace("/opt/python", "/usr/bin/tensorflow_model_server", 1).replace(
    '    "--ssl_config_file=/release/tls/ssl.cfg",\n',
    '    "--ssl_config_file=/release/tls/ssl.cfg",\n    "--enable_profiler=false",\n'
    '    "--file_system_poll_wait_seconds=0",\n',
)


def test_what_sealserve_writes_has_no_findings(make_spec: Callable[..., EnclaveSpec]) -> None:
    assert lint(make_manifest(make_spec(), broker_ca_sha256="c" * 64).to_bytes().decode()) == ()
    assert lint(MANIFEST) == ()
    assert lint(SERVING) == ()


def added(table: str, line: str) -> str:
    return MANIFEST.replace(f"[{table}]\n", f"[{table}]\n{line}\n")


@pytest.mark.parametrize(
    ("text", "line", "setting", "danger"),
    [
        (added("loader", "insecure__use_cmdline_argv = true"), 4, "loader.insecure__use_cmdline_argv", "host-input"),
        (added("loader", "insecure__use_host_env = true"), 4, "loader.insecure__use_host_env", "host-input"),
        (added("loader", "insecure__disable_aslr = true"), 4, "loader.insecure__disable_aslr", "insecure-settings"),
        (added("sys", "insecure__allow_eventfd = true"), 23, "sys.insecure__allow_eventfd", "insecure-settings"),
        (added("sys", "experimental__enable_flock = true"), 23, "sys.experimental__enable_flock", "insecure-settings"),
        (added("sys", 'debug__mock_syscalls = [{ name = "x" }]'), 23, "sys.debug__mock_syscalls", "debug"),
        (added("sys", "allowed_ioctls = [{ request_code = 1 }]"), 23, "sys.allowed_ioctls", "host-devices"),
        (added("sgx", "insecure__rpc_thread_num = 4"), 26, "sgx.insecure__rpc_thread_num", "insecure-settings"),
        (added("sgx", "insecure__allow_memfaults_without_exinfo = true"), 26,
         "sgx.insecure__allow_memfaults_without_exinfo", "insecure-settings"),
        (added("fs", 'insecure__keys.release = "00"'), 16, "fs.insecure__keys", "manifest-keys"),
        (added("loader", 'env_src_file = "file:env"'), 4, "loader.env_src_file", "host-input"),
        (added("loader", 'argv_src_file = "file:argv"'), 4, "loader.argv_src_file", "host-input"),
        (added("loader.env", "PATH = { passthrough = true }"), 13, "loader.env.PATH", "host-input"),
        (added("loader", 'log_file = "/log"'), 4, "loader.log_file", "log"),
        *[(MANIFEST.replace('"error"', f'"{level}"'), 4, "loader.log_level", "log")
          for level in ("warning", "debug", "trace", "all")],
        (MANIFEST.replace('root.type = "tmpfs"\n', ""), 15, "fs.root is missing", "host-files"),
        (MANIFEST.replace('root.type = "tmpfs"', 'root = { uri = "file:/" }'), 16, "fs.root", "host-files"),
        (MANIFEST.replace('"file:/usr/lib"', '"file:/"'), 18, "fs.mounts.0", "host-files"),
        (MANIFEST.replace('"file:/usr/lib"', '"file:/usr/../"'), 18, "fs.mounts.0", "host-files"),
        (MANIFEST.replace('path = "/lib"', 'path = "/"'), 18, "fs.mounts.0", "host-files"),
        (MANIFEST.replace('path = "/lib"', 'path = "/lib"\ntype = "untrusted_shm"'), 18, "fs.mounts.0", "host-devices"),
        (MANIFEST.replace('"file:/usr/lib"', '"dev:/dev/x"'), 18, "fs.mounts.0", "host-devices"),
        (added("sgx", 'allowed_files = [\n "file:/etc/hosts",\n]'), 27, "sgx.allowed_files.0", "host-files"),
        (added("sgx", 'file_check_policy = "allow_all_but_log"'), 26, "sgx.file_check_policy", "host-files"),
        (MANIFEST.replace("debug = false", "debug = true"), 26, "sgx.debug", "debug"),
        (added("sgx", "enable_stats = true"), 26, "sgx.enable_stats", "debug"),
        (added("sgx", "vtune_profile = true"), 26, "sgx.vtune_profile", "debug"),
        (added("sgx", 'profile.enable = "main"'), 26, "sgx.profile", "debug"),
        (MANIFEST.replace('    "--ssl_config_file=/release/tls/ssl.cfg",\n', ""), 5, "--ssl_config_file is missing",
         "server-flags"),
        (MANIFEST.replace("ssl_config_file=/release/tls/ssl.cfg", "ssl_config_file="), 9, "--ssl_config_file",
         "server-flags"),
        (MANIFEST.replace('.cfg",', '.cfg",\n"--dangerous_plaintext",'), 10, "--dangerous_plaintext", "server-flags"),
        (MANIFEST.replace('.cfg",', '.cfg",\n"--dangerous_plaintext_rest",'), 10, "--dangerous_plaintext_rest",
         "server-flags"),
        (MANIFEST.replace("ssl_config_file=/release/tls/ssl.cfg", 'ssl_config_file", "'), 9, "--ssl_config_file",
         "server-flags"),
        (SERVING.replace("profiler=false", "profiler=true"), 10, "--enable_profiler", "server-flags"),
        (SERVING.replace('    "--enable_profiler=false",\n', ""), 5, "--enable_profiler is missing", "server-flags"),
        (SERVING.replace("seconds=0", "seconds=1"), 11, "--file_system_poll_wait_seconds", "server-flags"),
        (SERVING.replace('    "--file_system_poll_wait_seconds=0",\n', ""), 5,
         "--file_system_poll_wait_seconds is missing", "server-flags"),
        (SERVING.replace('.cfg",', '.cfg", "--model_config_file_poll_wait_seconds=5",'), 9,
         "--model_config_file_poll_wait_seconds", "server-flags"),
        (SERVING.replace('.cfg",', '.cfg", "--rest_api_port=8501",'), 9, "--rest_api_port", "server-flags"),
        (SERVING.replace('.cfg",', '.cfg", "--use_alts_credentials",'), 9, "--use_alts_credentials", "server-flags"),
        (SERVING.replace("ssl_config_file=", 'ssl_config_file", "'), 5, "--ssl_config_file is missing", "server-flags"),
        (SERVING.replace("enable_profiler=", 'enable_profiler", "'), 10, "--enable_profiler", "server-flags"),
        (SERVING.replace('    "--ssl_config_file=/release/tls/ssl.cfg",\n', "").replace(
            'seconds=0",', 'seconds=0", "--", "--ssl_config_file=/x",'), 5, "--ssl_config_file is missing",
         "server-flags"),
        (SERVING.replace('    "--ssl_config_file=/release/tls/ssl.cfg",\n', "").replace(
            '    "/opt/python",', '    "--ssl_config_file=/x",'), 5, "--ssl_config_file is missing", "server-flags"),
        (MANIFEST.replace('"/opt/python",\n    "-m",\n    "sealserve.serving"', '"sh", "-c", "tensorflow_model_server"')
         , 6, "loader.argv.2", "server-flags"),
        (MANIFEST.replace('path = "/lib"', 'path = "//"'), 18, "fs.mounts.0", "host-files"),
        (MANIFEST.replace('"file:/usr/lib"', '"file:///."'), 18, "fs.mounts.0", "host-files"),
        (MANIFEST.replace('"file:/usr/lib"', '"file:a/../../.."'), 18, "fs.mounts.0", "host-files"),
        (added("loader.env", 'GRPC_TRACE = "http"'), 13, "loader.env.GRPC_TRACE", "log"),
        (added("loader.env", 'TF_CPP_MAX_VLOG_LEVEL = "2"'), 13, "loader.env.TF_CPP_MAX_VLOG_LEVEL", "log"),
        (added("loader.env", 'SSLKEYLOGFILE = "/tmp/keys"'), 13, "loader.env.SSLKEYLOGFILE", "log"),
    ],
)  # fmt: skip
def test_what_is_insecure_is_found_with_its_line(text: str, line: int, setting: str, danger: str) -> None:
    (finding,) = lint(text)
    assert (finding.line, finding.setting, finding.danger) == (line, setting, danger)
    with pytest.raises(ManifestInsecureError, match=f"line {line}: {setting}: .*--dangerous-{danger}") as caught:
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
    assert (finding.line, finding.setting) == (9, "--ssl_config_file")
    assert "HandleReloadConfigRequest" in finding.reason


def test_the_flags_of_another_program_mean_nothing_to_us() -> None:
    assert lint(MANIFEST.replace("sealserve.serving", "http.server").replace("--ssl", "--tls")) == ()


@pytest.mark.parametrize("named", ["-msealserve.serving", "/opt/sealserve/bin/sealserve-model-server"])
def test_the_model_server_is_known_by_any_of_its_names(named: str) -> None:
    text = MANIFEST.replace("sealserve.serving", named).replace("--ssl_config_file", "--other")
    assert [finding.setting for finding in lint(text)] == ["--ssl_config_file is missing"]


def test_an_empty_manifest_and_one_of_other_types() -> None:
    (finding,) = lint("")
    assert (finding.line, finding.setting) == (1, "fs.root is missing")
    text = 'loader = 1\nfs = { root = "x", mounts = 3 }\nsgx = { allowed_files = "ab" }\nsys = []\n'
    assert {finding.danger for finding in lint(text)} == {Danger.HOST_FILES}


def test_all_findings_are_named_at_once_and_each_that_is_allowed_is_said(caplog: pytest.LogCaptureFixture) -> None:
    findings = lint(added("sgx", 'enable_stats = true\nallowed_files = ["file:/x"]'))
    with pytest.raises(ManifestInsecureError, match=r"it is insecure: line 26: .*; line 27: .*\."):
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
        with pytest.raises(SealserveError):  # none of them is a whole manifest
            parse_manifest(text.encode(), dangerous=dangerous)
