#!/usr/bin/env python3
"""Set up a checkout: distribution packages, the virtual environment, the locked Python packages.

Only the standard library is used, and nothing is done twice: a second run ends at once. What will be installed is
said before it is installed. `make setup` calls this with a Python that sealserve supports.
"""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
BOOTSTRAP = ROOT / "requirements" / "bootstrap.lock"
LOCK = ROOT / "requirements" / "dev.lock"
STAMP = VENV / "sealserve-setup.stamp"
NATIVE_STAMP = VENV / "sealserve-native.stamp"
SUPPORTED = ((3, 11), (3, 13))
STREAM_MODULES = ("/usr/lib/nginx/modules/ngx_stream_module.so", "/usr/lib64/nginx/modules/ngx_stream_module.so")

# The packages' scripts would start nginx as a service of the machine: policy-rc.d says no while they run. A file of
# ours that a killed run left is removed; anybody else's stays.
INSTALL = """
set -eu
policy=/usr/sbin/policy-rc.d
mark='# written by the set-up of sealserve, for the time that it takes'
ours() { [ -f "$policy" ] && grep -qxF "$mark" "$policy"; }
remove() { if ours; then rm -f "$policy"; fi; }
trap remove EXIT
trap 'exit 130' INT TERM HUP
remove
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\\n%s\\nexit 101\\n' "$mark" > "$policy"
    chmod 755 "$policy"
fi
had_nginx=$(command -v nginx || true)
apt-get update -q
DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"
if [ -z "$had_nginx" ] && [ -d /run/systemd/system ] && command -v nginx > /dev/null; then
    systemctl disable --quiet nginx || true
fi
"""


def say(message: str) -> None:
    """Print a line, at once."""
    print(f"setup: {message}", flush=True)


def fail(message: str, *remedies: str) -> None:
    """End with one message that says what to run."""
    print(f"setup: error: {message}", file=sys.stderr)
    for remedy in remedies:
        print(f"         {remedy}", file=sys.stderr)
    raise SystemExit(4)


def nginx_has_stream() -> bool:
    """Return whether nginx is here, with its stream module (built in, or as a loadable file)."""
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))
    nginx = shutil.which("nginx", path=path)
    if nginx is None:
        return False
    build = subprocess.run([nginx, "-V"], capture_output=True, text=True, check=False).stderr
    if "--with-stream=dynamic" in build:
        return any(Path(module).is_file() for module in STREAM_MODULES)
    return "--with-stream" in build


def missing_packages() -> list[str]:
    """Return the distribution packages that this machine lacks."""
    missing = []
    if not VENV.is_dir() and importlib.util.find_spec("ensurepip") is None:
        missing.append(f"python{sys.version_info[0]}.{sys.version_info[1]}-venv")
    if not nginx_has_stream():
        missing += ["nginx", "libnginx-mod-stream"]
    return missing


def install_packages(packages: list[str]) -> None:
    """Install distribution packages, as root or with sudo."""
    by_hand = f"apt-get install --no-install-recommends {' '.join(packages)}"
    if shutil.which("apt-get") is None:
        fail(f"this machine lacks {', '.join(packages)} (Debian's names), and there is no apt-get to install them.",
             "Install nginx with its stream module, and Python's venv module, then run make again.")  # fmt: skip
    as_root = [] if os.geteuid() == 0 else ["sudo"]
    if as_root and shutil.which("sudo") is None:
        fail(
            f"this machine lacks {', '.join(packages)}; installing them takes root.",
            f"As root: apt-get update && {by_hand}",
        )
    say(f"installing from the distribution: {' '.join(packages)} (nginx's own service stays stopped)")
    command = [*as_root, "sh", "-c", INSTALL, "install", *packages]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        output = read_to_the_end(process)
    if process.returncode != 0:
        tail = "\n".join(output.strip().splitlines()[-8:])
        fail(f"the packages could not be installed:\n{tail}", f"By hand, as root: apt-get update && {by_hand}")


def read_to_the_end(process: "subprocess.Popen[str]") -> str:
    """Return what a process prints. Ctrl-C reaches it as well: it cleans up, and only then do we end."""
    interrupted = False
    while True:
        try:
            output, _ = process.communicate()
        except KeyboardInterrupt:
            interrupted = True
            continue
        if interrupted:
            raise SystemExit(130)
        return output


def fingerprint() -> str:
    """Return what the environment depends on, as one digest."""
    digest = hashlib.sha256(sys.version.encode())
    digest.update(str(ROOT).encode())  # scripts in a virtual environment bear its path
    for path in (BOOTSTRAP, LOCK, ROOT / "pyproject.toml"):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def is_usable() -> bool:
    """Return whether ``.venv`` is this checkout's, with this Python: then it is brought up to date, not made anew."""
    uv = VENV / "bin" / "uv"
    command = [str(VENV / "bin" / "python"), "-c", "import sys; print(sys.version, sys.prefix)"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        installer = subprocess.run([str(uv), "--version"], capture_output=True, check=False).returncode
    except OSError:
        return False
    return installer == 0 and answer == f"{sys.version} {VENV}"


def run(what: str, command: list[str], environment: dict[str, str]) -> None:
    """Run one installation step."""
    result = subprocess.run(command, check=False, env=environment, cwd=ROOT, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, errors="replace")  # fmt: skip
    if result.returncode != 0:
        lines = [line for line in result.stdout.strip().splitlines() if not line.startswith("WARNING: Retrying")]
        tail = "\n".join(lines[-6:])
        fail(f"{what} failed:\n{tail}", "With a network that reaches a Python package index, run `make setup` again.")


def installer_environment() -> dict[str, str]:
    """Return the environment for uv: the machine's certificates, and the index that pip is set to, if any."""
    environment = dict(os.environ, UV_SYSTEM_CERTS="1", UV_NATIVE_TLS="1", UV_NO_CONFIG="1", UV_LINK_MODE="copy")
    environment.pop("VIRTUAL_ENV", None)
    cache = Path(environment.get("UV_CACHE_DIR") or environment.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    if not os.access(cache if cache.exists() else cache.parent, os.W_OK):
        environment["UV_NO_CACHE"] = "1"
    if "UV_DEFAULT_INDEX" not in environment:
        index = subprocess.run([VENV / "bin" / "pip", "config", "get", "global.index-url"], capture_output=True,
                               text=True, check=False).stdout.strip()  # fmt: skip
        index = environment.get("PIP_INDEX_URL", index)
        if index:
            environment["UV_DEFAULT_INDEX"] = index
    return environment


def compile_native_cipher() -> None:
    """Compile what makes sealing faster, if that can be done here; it is said once if it cannot."""
    script = [str(VENV / "bin" / "python"), str(ROOT / "scripts" / "native.py")]
    said = subprocess.run(script, check=False, capture_output=True, text=True, errors="replace").stderr.strip()
    if said and (not NATIVE_STAMP.is_file() or NATIVE_STAMP.read_text() != said):
        say(f"sealing and unsealing will be slower: {said}")
        NATIVE_STAMP.write_text(said)


def install_environment() -> None:
    """Make ``.venv`` hold the locked packages, and sealserve itself in editable form."""
    wanted = fingerprint()
    if STAMP.is_file() and STAMP.read_text() == wanted:
        return
    python = VENV / "bin" / "python"
    if is_usable():
        say("bringing .venv up to date")
        environment = installer_environment()
    else:
        say(f"creating .venv with Python {sys.version.split()[0]} (2.2 GB with TensorFlow; a minute or two)")
        if VENV.exists():
            shutil.rmtree(VENV)
        run("creating the virtual environment", [sys.executable, "-m", "venv", str(VENV)], dict(os.environ))
        environment = installer_environment()
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--require-hashes"]
        run("installing the package installer", [*pip, "--requirement", str(BOOTSTRAP)], environment)
    uv = [str(VENV / "bin" / "uv"), "pip", "install", "--quiet", "--python", str(python)]
    say("installing the locked Python packages, each checked against its hash")
    locked = [*uv, "--compile-bytecode", "--require-hashes", "--requirement", str(LOCK)]  # each verb starts sooner
    run("installing the locked packages", locked, environment)
    run("installing sealserve", [*uv, "--no-deps", "--no-build-isolation", "--editable", str(ROOT)], environment)
    STAMP.write_text(wanted)
    say("ready: .venv/bin/sealserve --help")


def main(arguments: Sequence[str] = ()) -> None:
    """Set up what is missing; with ``--benchmarks``, also the program that sends requests for them."""
    if not SUPPORTED[0] <= sys.version_info[:2] <= SUPPORTED[1]:
        fail(f"Python {sys.version.split()[0]} is not supported: 3.11, 3.12 or 3.13 is needed.")
    packages = missing_packages()
    if "--benchmarks" in arguments and shutil.which("h2load") is None:
        packages.append("nghttp2-client")
    if packages:
        install_packages(packages)
    install_environment()
    compile_native_cipher()


if __name__ == "__main__":
    main(sys.argv[1:])
