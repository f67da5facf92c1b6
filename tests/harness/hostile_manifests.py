# ruff: noqa: E501, S108  # a table; the folders are names in a manifest
"""Manifests that weaken an enclave: what is changed in a good one, and what the lint must say.

Gramine's own ``gramine-manifest --check`` accepts each of them. A case is: its name, the change, the finding's setting,
and the class that allows it (None: nothing does).
"""

from collections.abc import Callable
from typing import Any, Final

Manifest = dict[str, Any]
Change = Callable[[Manifest], object]
Case = tuple[str, Change, str | None, str | None]


def sealed(manifest: Manifest) -> list[dict[str, Any]]:
    """Return the encrypted mounts."""
    return [one for one in manifest["fs"]["mounts"] if one["type"] == "encrypted"]


def env(name: str, value: object) -> Change:
    return lambda m: m["loader"]["env"].update({name: value})


def argv(*arguments: str) -> Change:
    """Replace everything behind the program."""
    return lambda m: m["loader"].update(argv=[m["loader"]["argv"][0], *arguments])


def more(*arguments: str) -> Change:
    return lambda m: m["loader"]["argv"].extend(arguments)


def without(flag: str) -> Change:
    def change(manifest: Manifest) -> None:
        arguments = manifest["loader"]["argv"]
        arguments[:] = [argument for argument in arguments if not argument.startswith(f"--{flag}")]

    return change


def swapped(flag: str, *arguments: str) -> Change:
    """Give the arguments in the place of a flag."""

    def change(manifest: Manifest) -> None:
        without(flag)(manifest)
        manifest["loader"]["argv"].extend(arguments)

    return change


def started(program: str, *arguments: str, argv0: str | None = None) -> Change:
    """Start another program, which is trusted."""

    def change(manifest: Manifest) -> None:
        manifest["libos"]["entrypoint"] = program
        manifest["loader"]["argv"] = [program if argv0 is None else argv0, *arguments]
        manifest["sgx"]["trusted_files"].append({"uri": f"file:{program}", "sha256": "0" * 64})
        manifest["fs"]["mounts"].append({"type": "chroot", "path": program, "uri": f"file:{program}"})

    return change


def renamed(program: str, path: str, *arguments: str) -> Change:
    """Start a program under another name."""

    def change(manifest: Manifest) -> None:
        started(path, *arguments)(manifest)
        manifest["sgx"]["trusted_files"][-1]["uri"] = manifest["fs"]["mounts"][-1]["uri"] = f"file:{program}"

    return change


def serving(*arguments: str) -> Change:
    """Start TensorFlow Serving's binary."""
    return started("/usr/bin/tensorflow_model_server", *arguments)


def table(name: str, **values: object) -> Change:
    return lambda m: m.setdefault(name, {}).update(values)


def mount(**values: str) -> Change:
    return lambda m: m["fs"]["mounts"].append(values)


OWN = ("--ssl_config_file=/release/tls/ssl.cfg", "--file_list=/release/files.json", "--file_system_poll_wait_seconds=0")
TFS = ("--ssl_config_file=/release/tls/ssl.cfg", "--file_system_poll_wait_seconds=0", "--enable_profiler=false")
FLAGS, PROGRAM, ENVIRONMENT, LOG = "server-flags", "other-program", "environment", "log"
SERVER: Final = "/opt/sealserve/bin/sealserve-model-server"

ENVIRONMENT_CASES: Final[list[Case]] = [
    *[
        (f"{name} leaks", env(name, value), f"loader.env.{name}", LOG)
        for name, value in (
            ("TF_DUMP_GRAPH_PREFIX", "-"), ("TF_DUMP_GRAPH_NAME_FILTER", "*"), ("TF_CPP_MAX_VLOG_LEVEL", "3"),
            ("TF_CPP_VMODULE", "session=3"), ("TF_CPP_MIN_VLOG_LEVEL", "3"), ("GRPC_TRACE", "all"),
("GRPC_VERBOSITY", "debug"), ("SSLKEYLOGFILE", "/dev/stderr"), ("DNNL_VERBOSE", "2"),
            ("ONEDNN_VERBOSE", "2"), ("MKL_VERBOSE", "1"), ("LD_DEBUG", "all"), ("PYTHONVERBOSE", "1"),
            ("PYTHONFAULTHANDLER", "1"), ("MALLOC_TRACE", "/x"), ("XLA_FLAGS", "--xla_dump_to=/x"),
        )
    ],
    *[
        (f"{name} is unknown", env(name, value), f"loader.env.{name}", ENVIRONMENT)
        for name, value in (
            ("PYTHONPATH", "/release/models"), ("PYTHONHOME", "/x"), ("PYTHONSTARTUP", "/x.py"), ("PYTHONINSPECT", "1"),
            ("PYTHONWARNINGS", "x"), ("GRPC_POLL_STRATEGY", "poll"), ("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "/x"),
            ("GRPC_SSL_CIPHER_SUITES", "NULL"), ("LD_AUDIT", "/x.so"), ("LD_BIND_NOW", "1"), ("GCONV_PATH", "/x"),
            ("GLIBC_TUNABLES", "glibc.malloc.check=3"), ("OPENSSL_CONF", "/x"), ("OPENSSL_MODULES", "/x"),
            ("MALLOC_CHECK_", "3"), ("MALLOC_PERTURB_", "1"), ("LOCPATH", "/x"), ("NLSPATH", "/x"), ("HTTPS_PROXY", "x"),
            ("http_proxy", "x"), ("TF_XLA_CACHE", "/x"), ("TF_PLUGGABLE_DEVICE_LIBRARY_PATH", "/x"),
            ("PATH", "/x"), ("ld_library_path", "/x"), ("Ld_Preload", "/x"), ("HOSTALIASES", "/x"),
            ("RES_OPTIONS", "debug"), ("SECRET_PROVISION_SECRET_STRING", "00"), ("RA_TLS_ALLOW_DEBUG_ENCLAVE_INSECURE", "1"),
            ("SEALSERVE_OTHER", "1"), ("insecure__name", "x"),
        )
    ],
    *[
        (f"{name} is {value!r}", env(name, value), f"loader.env.{name}", danger)
        for name, value, danger in (
            ("LD_LIBRARY_PATH", "/lib:/release/models", ENVIRONMENT), ("LD_LIBRARY_PATH", "", ENVIRONMENT),
            ("LD_LIBRARY_PATH", "/broker-ca.pem:", ENVIRONMENT), ("LD_LIBRARY_PATH", "lib", ENVIRONMENT),
            ("LD_LIBRARY_PATH", "/release/scratch", ENVIRONMENT), ("LD_LIBRARY_PATH", "/nowhere", ENVIRONMENT),
            ("LD_LIBRARY_PATH", "/broker-ca.pem/../tmp", ENVIRONMENT),
            ("HOME", "/", ENVIRONMENT), ("TMPDIR", "/tmp", ENVIRONMENT), ("TMPDIR", "/release/models", ENVIRONMENT),
            ("LANG", "/x/y", ENVIRONMENT), ("LANG", "../../x", ENVIRONMENT), ("TZ", ":/etc/shadow", ENVIRONMENT),
            ("TZ", "../x", ENVIRONMENT), ("MALLOC_ARENA_MAX", "-1", ENVIRONMENT), ("OMP_NUM_THREADS", "4\n", ENVIRONMENT),
            ("TF_CPP_MIN_LOG_LEVEL", "0", LOG), ("TF_CPP_MIN_LOG_LEVEL", "", LOG), ("TF_ENABLE_ONEDNN_OPTS", "x", ENVIRONMENT),
            ("LD_PRELOAD", "libsecret_prov_attest.so:/release/models/evil.so", None), ("LD_PRELOAD", "evil.so", None),
            ("LD_PRELOAD", "", None), ("SECRET_PROVISION_CONSTRUCTOR", "0", None),
            ("SECRET_PROVISION_CA_CHAIN_PATH", "/etc/ssl/certs/ca-certificates.crt", None),
            ("SECRET_PROVISION_SET_KEY", "default", None), ("SECRET_PROVISION_SET_KEY", "_sgx_mrsigner", None),
            ("SECRET_PROVISION_SERVERS", "", None), ("SECRET_PROVISION_SERVERS", "broker", None),
            ("SEALSERVE_PLATFORM", "none", None), ("SEALSERVE_RELEASE_ID", "0", None),
        )
    ],
    *[
        (f"a table: {value}", env("GRPC_TRACE", value), "loader.env.GRPC_TRACE", danger)
        for value, danger in (
            ({"value": "all"}, LOG), ({"passthrough": True}, "host-input"), ({"passthrough": False}, "host-input"),
            ({"value": "x", "passthrough": True}, "host-input"), ({}, LOG), ({"value": {"value": "x"}}, LOG),
            ({"other": 1}, LOG), ([1], LOG), (1, LOG), (True, LOG),
        )
    ],
    ("a table with a bad text", env("TMPDIR", {"value": "/tmp"}), "loader.env.TMPDIR", ENVIRONMENT),
    ("an empty name", env("", "x"), "loader.env.''", ENVIRONMENT),
    ("a name with a line break", env("A\nline 1: ok", "x"), "loader.env.'A\\nline 1: ok'", ENVIRONMENT),
    ("a preload in a table", env("LD_PRELOAD", {"value": "evil.so"}), "loader.env.LD_PRELOAD", None),
    ("a needed variable from the host", env("LD_PRELOAD", {"passthrough": True}), "loader.env.LD_PRELOAD", "host-input"),
    ("a number", env("OMP_NUM_THREADS", 4), "loader.env.OMP_NUM_THREADS", None),
    ("a table of another form", env("OMP_NUM_THREADS", {"x": "4"}), "loader.env.OMP_NUM_THREADS", None),
]  # fmt: skip

PROGRAM_CASES: Final[list[Case]] = [
    *[
        (f"entrypoint {program} {arguments}", started(program, *arguments), "libos.entrypoint", PROGRAM)
        for program, arguments in (
            ("/bin/sh", ("-c", f"exec {SERVER} --dangerous_plaintext", "x", "--ssl_config_file=/x")),
            ("/bin/bash", (SERVER, *OWN)), ("/usr/bin/env", (SERVER, *OWN)), ("/bin/busybox", ("sh",)),
            ("/lib64/ld-linux-x86-64.so.2", ("/usr/bin/tensorflow_model_server", *TFS)),
            ("/usr/bin/tfs", TFS), ("/usr/bin/tensorflow_model_server.real", TFS), ("/usr/bin/TENSORFLOW_MODEL_SERVER", TFS),
            ("/opt/sealserve/bin/sealserve", ("serve",)), ("/usr/bin/gdb", (SERVER,)), ("/usr/bin/strace", (SERVER,)),
            ("/usr/bin/pypy3", ("-m", "sealserve.serving", *OWN)), ("/usr/bin/python3-config", ()), ("/usr/bin/nohup", (SERVER,)),
            ("/opt/sealserve/bin/gunicorn", ()), ("/opt/sealserve/bin/sealserve-model-server.py", OWN),
        )
    ],
    *[
        (f"python {' '.join(arguments)}", argv(*arguments, *OWN), setting, PROGRAM)
        for arguments, setting in (
            (("-c", "import runpy; runpy.run_module('sealserve.serving')"), "loader.argv.1"),
            (("-I", "-c", "x"), "loader.argv.2"), (("-Ic", "x"), "loader.argv.1"), (("-cx",), "loader.argv.1"),
            (("-m", "runpy", "sealserve.serving"), "loader.argv.2"), (("-m", "http.server"), "loader.argv.2"),
            (("-mhttp.server",), "loader.argv.1"), (("-Im", "trace", "sealserve.serving"), "loader.argv.2"),
            (("-m", "sealserve.serving.program"), "loader.argv.2"), (("-m", "sealserve"), "loader.argv.2"),
            (("-m", "pdb", "-m", "sealserve.serving"), "loader.argv.2"), (("-m",), "loader.argv.2"),
            (("-i", "-m", "sealserve.serving"), "loader.argv.1"), (("-v", "-m", "sealserve.serving"), "loader.argv.1"),
            (("-X", "importtime", "-m", "sealserve.serving"), "loader.argv.1"),
            (("-Ximporttime", "-m", "sealserve.serving"), "loader.argv.1"),
            (("-W", "error", "-m", "sealserve.serving"), "loader.argv.1"),
            (("-", "-m", "sealserve.serving"), "loader.argv.1"), (("", "-m", "sealserve.serving"), "loader.argv.1"),
            (("/release/models/run.py", "-m", "sealserve.serving"), "loader.argv.1"),
            (("/opt/sealserve/bin/serve", "-m", "sealserve.serving"), "loader.argv.1"),
            (("--", "-m", "sealserve.serving"), "loader.argv.1"), (("--help-all",), "loader.argv.1"),
        )
    ],
    ("a shell that a mount calls Python", renamed("/bin/sh", "/opt/python3", "-m", "sealserve.serving", *OWN),
     "libos.entrypoint", PROGRAM),
    ("another binary that a mount calls TensorFlow Serving", renamed("/bin/tfs", "/usr/bin/tensorflow_model_server", *TFS),
     "libos.entrypoint", PROGRAM),
    ("a script that a mount renames", lambda m: (argv("/opt/sealserve-model-server", *OWN)(m), mount(
        type="chroot", path="/opt/sealserve-model-server", uri="file:/opt/run.py")(m)), "loader.argv.1", PROGRAM),
    ("python alone", argv(), "libos.entrypoint", PROGRAM),
    ("argv[0] says another program", started("/usr/bin/tensorflow_model_server", *TFS, argv0="/usr/bin/python3"),
     "loader.argv.0", PROGRAM),
    ("argv[0] says a known one", started("/bin/sh", *TFS, argv0="/usr/bin/tensorflow_model_server"), "loader.argv.0", PROGRAM),
    ("argv[0] is empty", started(SERVER, *OWN, argv0=""), "loader.argv.0", PROGRAM),
]  # fmt: skip

FLAG_CASES: Final[list[Case]] = [
    ("no TLS", without("ssl_config_file"), "--ssl_config_file is missing", FLAGS),
    ("no file list", without("file_list"), "--file_list is missing", FLAGS),
    ("polls by default", without("file_system_poll_wait_seconds"), "--file_system_poll_wait_seconds is missing", FLAGS),
    ("an empty file list", swapped("file_list", "--file_list="), "--file_list", FLAGS),
    ("a file list of the host", swapped("file_list", "--file_list=/etc/files.json"), "--file_list", FLAGS),
    ("plaintext by the script", started(SERVER, *OWN, "--dangerous_plaintext"), "--dangerous_plaintext", FLAGS),
    ("no TLS by the script", started(SERVER, *OWN[1:]), "--ssl_config_file is missing", FLAGS),
    ("plaintext by python and the script", argv(SERVER, *OWN, "--dangerous_plaintext"), "--dangerous_plaintext", FLAGS),
    *[
        (" ".join(given), more(*given), f"--{given[0].removeprefix('--').split('=')[0]}", FLAGS)
        for given in (
            ("--dangerous_plaintext",), ("--dangerous_plaintext=true",), ("--dangerous_plaintext=YES",),
            ("--dangerous_plaintext", "false"), ("--dangerous_plaintext=",), ("--dangerous_plaintext_rest",),
            ("--file_system_poll_wait_seconds=5",), ("--file_system_poll_wait_seconds", "5"),
            ("--file_system_poll_wait_seconds=-1",), ("--file_system_poll_wait_seconds= 5",),
            ("--model_config_file_poll_wait_seconds=9",), ("--ssl_config_file=",), ("--ssl_config_file=/etc/ssl.cfg",),
            ("--ssl_config_file", "/etc/ssl.cfg"), ("--ssl_config_file=/release/tls/../../etc/ssl.cfg",),
            ("--ssl_config_file=/release/scratch/ssl.cfg",), ("--ssl_config_file=release/tls/ssl.cfg",),
            ("--ssl_config_file=//release/tls/ssl.cfg",), ("--ssl_config_file=/release/tlsx/ssl.cfg",),
            ("--ssl_config_file", "--port=1"), ("--rest_api_ssl_config_file=/etc/x",), ("--admin_ssl_config_file=/etc/x",),
            ("--model_config_file=/etc/x",), ("--model_base_path=/srv/models",), ("--model_base_path", "/srv/models"),
            ("--batching_parameters_file=/etc/x",), ("--monitoring_config_file=/etc/x",), ("--tensorflow_session_config_file=/x",),
            ("--traces_ca_file=/etc/x",),
        )
    ],
    ("an abbreviated flag", swapped("ssl_config_file", "--ssl_config=/release/tls/ssl.cfg"), "--ssl_config_file is missing",
     FLAGS),
    ("one dash", swapped("ssl_config_file", "-ssl_config_file=/release/tls/ssl.cfg"), "--ssl_config_file is missing", FLAGS),
    ("a --no form", swapped("file_system_poll_wait_seconds", "--nofile_system_poll_wait_seconds"),
     "--file_system_poll_wait_seconds is missing", FLAGS),
    ("TensorFlow Serving with REST", serving(*TFS, "--rest_api_port=8501"), "--rest_api_port", FLAGS),
    ("TensorFlow Serving with a profiler", serving(*TFS[:2]), "--enable_profiler is missing", FLAGS),
    ("TensorFlow Serving with the profiler bare", serving(*TFS, "--enable_profiler"), "--enable_profiler", FLAGS),
    ("TensorFlow Serving polls", serving(TFS[0], TFS[2]), "--file_system_poll_wait_seconds is missing", FLAGS),
    ("TensorFlow Serving without TLS", serving(*TFS[1:]), "--ssl_config_file is missing", FLAGS),
    ("TensorFlow Serving with TLS after --", serving(*TFS[1:], "--", TFS[0]), "--ssl_config_file is missing", FLAGS),
    ("TensorFlow Serving with a space", serving(*TFS[1:], *TFS[0].split("=")), "--ssl_config_file is missing", FLAGS),
    ("TensorFlow Serving with the host's settings", serving(*TFS[1:], "--ssl_config_file=/etc/x"), "--ssl_config_file", FLAGS),
    ("TensorFlow Serving with the host's models", serving(*TFS, "--model_base_path=/models"), "--model_base_path", FLAGS),
    ("TensorFlow Serving with the host's platform", serving(*TFS, "--platform_config_file=/x"), "--platform_config_file", FLAGS),
    ("TensorFlow Serving with ALTS", serving(*TFS, "--use_alts_credentials"), "--use_alts_credentials", FLAGS),
    ("TensorFlow Serving with a socket", serving(*TFS, "--grpc_socket_path=/release/scratch/s"), "--grpc_socket_path", FLAGS),
]  # fmt: skip

SETTING_CASES: Final[list[Case]] = [
    ("debug", table("sgx", debug=True), "sgx.debug", "debug"),
    ("no attestation", table("sgx", remote_attestation="none"), "sgx.remote_attestation", None),
    ("EPID", table("sgx", remote_attestation="epid"), "sgx.remote_attestation", None),
    ("attestation is absent", lambda m: m["sgx"].pop("remote_attestation"), "sgx.remote_attestation", None),
    ("seal key masks", table("sgx", seal_key={"flags_mask": "0x0", "xfrm_mask": "0x0", "misc_mask": "0x0"}), "sgx.seal_key",
     None),
    ("a key of the processor", lambda m: sealed(m)[0].update(key_name="_sgx_mrsigner"), "as a whole", None),
    ("a key of the processor for all", lambda m: [one.update(key_name="_sgx_mrenclave") for one in sealed(m)], "as a whole", None),
    ("no constructor", lambda m: m["loader"]["env"].pop("SECRET_PROVISION_CONSTRUCTOR"),
     "loader.env.SECRET_PROVISION_CONSTRUCTOR", None),
    ("no preload", lambda m: m["loader"]["env"].pop("LD_PRELOAD"), "loader.env.LD_PRELOAD", None),
    ("a host folder over the models", mount(type="chroot", path="/release/models/tiny", uri="file:/srv"), "as a whole", None),
    ("a host folder at the private root", mount(type="chroot", path="/release", uri="file:/srv"), "as a whole", None),
    ("a host folder in the scratch", mount(type="chroot", path="/release/scratch/x", uri="file:/srv"), "as a whole", None),
    ("memory over a model", mount(type="tmpfs", path="/release/models/tiny"), "as a whole", None),
    ("pointers are not checked", table("libos", check_invalid_pointers=False), "libos.check_invalid_pointers", None),
    ("a start folder", table("fs", start_dir="/release/models"), "fs.start_dir", None),
    ("recovery of encrypted files", lambda m: m["fs"]["mounts"][-2].update(enable_recovery=True),
     "fs.mounts.4.enable_recovery", None),
    ("preheated", table("sgx", preheat_enclave=True), "sgx.preheat_enclave", None),
    ("exceptions are shown", table("sgx", use_exinfo=True), "sgx.use_exinfo", None),
    ("SIGTERM is not injected", table("sys", enable_sigterm_injection=False), "sys.enable_sigterm_injection", None),
    ("the host's names", table("sys", enable_extra_runtime_domain_names_conf=False),
     "sys.enable_extra_runtime_domain_names_conf", None),
    ("an unknown table", table("experiments", on=True), "experiments", None),
    ("an allowed file", table("sgx", allowed_files=["file:/etc/hosts"]), "sgx.allowed_files.0", "host-files"),
    ("a policy for files", table("sgx", file_check_policy="allow_all_but_log"), "sgx.file_check_policy", "host-files"),
    ("the host's root", mount(type="chroot", path="/host", uri="file:/"), None, "host-files"),
    ("a device", mount(type="chroot", path="/dev/x", uri="dev:/dev/x"), None, "host-devices"),
    ("shared memory", mount(type="untrusted_shm", path="/dev/shm", uri="dev:/dev/shm"), None, "host-devices"),
    ("a key in the text", table("fs", insecure__keys={"release": "0" * 32}), "fs.insecure__keys", "manifest-keys"),
    ("arguments of the host", table("loader", insecure__use_cmdline_argv=True), "loader.insecure__use_cmdline_argv",
     "host-input"),
    ("environment of the host", table("loader", insecure__use_host_env=True), "loader.insecure__use_host_env", "host-input"),
    ("arguments of a file", table("loader", argv_src_file="file:argv"), "loader.argv_src_file", "host-input"),
    ("a log of the host", table("loader", log_file="x"), "loader.log_file", LOG),
    ("a long log", table("loader", log_level="all"), "loader.log_level", LOG),
    ("no ASLR", table("loader", insecure__disable_aslr=True), "loader.insecure__disable_aslr", "insecure-settings"),
    ("another broker CA", lambda m: next(one for one in m["fs"]["mounts"] if one["path"] == "/broker-ca.pem").update(
        uri="file:enclave/other-ca.pem"), "as a whole", None),
    ("the broker CA is hidden", lambda m: next(one for one in m["fs"]["mounts"] if one["path"] == "/broker-ca.pem").update(
        path="/ca.pem"), "as a whole", None),
    ("an untrusted program", lambda m: m["sgx"].update(trusted_files=[
        one for one in m["sgx"]["trusted_files"] if one["uri"] != "file:" + m["libos"]["entrypoint"]]), "as a whole", None),
    ("another library OS without a digest", table("loader", entrypoint={"uri": "file:x", "other": 1}),
     "loader.entrypoint.other", None),
    ("absolute sealed files", lambda m: sealed(m)[0].update(uri="file:/srv/models/"), "as a whole", None),
]  # fmt: skip

CASES: Final = [*ENVIRONMENT_CASES, *PROGRAM_CASES, *FLAG_CASES, *SETTING_CASES]

PRELOADED_CASES: Final = frozenset({"no preload", "no constructor"})
"""Cases that remove a setting which only a server with a preloaded library has. A server that attests itself has none."""

HARMLESS: Final[list[tuple[str, Change]]] = [
    ("nothing", lambda _: None),
    ("a text in a table", env("TMPDIR", {"value": "/release/scratch"})),
    ("a needed text in a table", env("LD_PRELOAD", {"value": "libsecret_prov_attest.so"})),
    *[
        (f"{name}={value}", env(name, value))
        for name, value in (
            ("LC_ALL", "C.UTF-8"), ("LC_ALL", "de_DE.UTF-8"), ("TZ", "UTC"), ("TZ", "America/Argentina/Buenos_Aires"),
            ("KMP_BLOCKTIME", "0"), ("MKL_NUM_THREADS", "4"), ("OMP_WAIT_POLICY", "PASSIVE"), ("OMP_PROC_BIND", "true"),
            ("TF_ENABLE_ONEDNN_OPTS", "0"), ("TF_CPP_MIN_LOG_LEVEL", "3"), ("TMPDIR", "/release/scratch/deeper"),
            ("SECRET_PROVISION_SERVERS", "a.example:1;b.example:2"),
        )
    ],
    ("python's options", argv("-I", "-B", "-X", "pycache_prefix=/release/scratch/none", "-m", "sealserve.serving", *OWN)),
    ("python's options in one", argv("-IBm", "sealserve.serving", *OWN)),
    ("the module in the option", argv("-msealserve.serving", *OWN)),
    ("the script", started(SERVER, *OWN)),
    ("python and the script", argv("-I", SERVER, *OWN)),
    ("values in the next argument", argv("-m", "sealserve.serving", *" ".join(OWN).replace("=", " ").split())),
    ("REST, which has the same TLS", more("--rest_api_port=8501")),
    ("sealed files", more("--model_config_file=/release/models/models.cfg", "--model_base_path=/release/models")),
    ("the last flag counts", swapped("ssl_config_file", "--ssl_config_file=", "--ssl_config_file=/release/tls/ssl.cfg")),
    ("TensorFlow Serving", serving(*TFS)),
    ("what is off", table("sgx", enable_stats=False, use_exinfo=False)),
]  # fmt: skip
