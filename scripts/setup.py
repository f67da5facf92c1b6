#!/usr/bin/env python3
"""Set up a checkout: distribution packages, the virtual environment, the locked Python packages.

Only the standard library is used. Steps that are already done are skipped, so a second run ends immediately. The script
prints what it is going to install, and the number of each step. `make setup` calls it with a supported Python.
"""

import hashlib
import importlib.util
import os
import platform
import queue
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
BOOTSTRAP = ROOT / "requirements" / "bootstrap.lock"
LOCK = ROOT / "requirements" / "dev.lock"
STAMP = VENV / "sealserve-setup.stamp"
NATIVE_STAMP = VENV / "sealserve-native.stamp"
SUPPORTED = ((3, 11), (3, 13))
STEPS = 4
QUIET_SECONDS = 15
"""Without a terminal, a running step prints a line if it printed none for this number of seconds."""
UV_PROGRESS = re.compile(r"(Resolved|Downloading|Prepared|Installed) .+")
"""The lines of `uv pip install` that show progress. The list of all packages is not included."""
APT_PROGRESS = re.compile(r"(Need to get|Get:\d+|Unpacking|Setting up) .+")
STREAM_MODULES = ("/usr/lib/nginx/modules/ngx_stream_module.so", "/usr/lib64/nginx/modules/ngx_stream_module.so")

# The packages' scripts would start nginx as a system service. A policy-rc.d that rejects this is in place while they
# run. A policy-rc.d that a killed run of this script left is removed; other policies stay.
INSTALL = """
set -eu
policy=/usr/sbin/policy-rc.d
mark='# written by the set-up of sealserve, for the duration of the installation'
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
    """Print a line without buffering."""
    print(f"setup: {message}", flush=True)


def step(number: int, what: str) -> None:
    """Print the start of a step."""
    say(f"[{number}/{STEPS}] {what}")


def fail(message: str, *remedies: str) -> None:
    """Print an error with commands that fix it, and exit."""
    print(f"setup: error: {message}", file=sys.stderr)
    for remedy in remedies:
        print(f"         {remedy}", file=sys.stderr)
    raise SystemExit(4)


def nginx_has_stream() -> bool:
    """Return whether nginx is installed with its stream module, built in or as a loadable file."""
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
        fail(f"this machine lacks {', '.join(packages)} (Debian's names), and has no apt-get to install them.",
             "Install nginx with its stream module, and Python's venv module. Then run make again.")  # fmt: skip
    as_root = [] if os.geteuid() == 0 else ["sudo"]
    if as_root and shutil.which("sudo") is None:
        fail(
            f"this machine lacks {', '.join(packages)}, and only root can install them.",
            f"As root: apt-get update && {by_hand}",
        )
    say(f"installing from the distribution: {' '.join(packages)} (nginx's own service stays stopped)")
    command = [*as_root, "sh", "-c", INSTALL, "install", *packages]
    status, lines = follow(command, APT_PROGRESS)
    if status != 0:
        tail = "\n".join(lines[-8:])
        fail(f"the packages could not be installed:\n{tail}", f"To install them as root: apt-get update && {by_hand}")


def follow(
    command: Sequence[str | Path], progress: re.Pattern[str], environment: dict[str, str] | None = None
) -> tuple[int, list[str]]:
    """Run a command and show its progress. Ctrl-C also reaches the command, which cleans up before this script exits.

    Args:
        command: The program and its arguments.
        progress: Pattern of the output lines that show progress.
        environment: The environment of the command. `None` means the environment of this process.

    Returns:
        Its exit status, and the lines that it printed.
    """
    lines: list[str] = []
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
        cwd=ROOT,
    ) as process:
        assert process.stdout is not None  # noqa: S101  # for the type checker: it is a pipe
        arrived: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        reader = threading.Thread(target=forward, args=(process.stdout, arrived.put), daemon=True)
        reader.start()
        shown = live_line() if is_terminal() else log_lines()
        next(shown)
        interrupted = at_end = False
        while not at_end:
            try:
                line = arrived.get(timeout=0.2)
                at_end = line is None
                lines.append((line or "").strip())
                shown.send(lines[-1] if progress.match(lines[-1]) else "")
            except queue.Empty:
                shown.send("")
                at_end = not reader.is_alive() and arrived.empty()
            except KeyboardInterrupt:  # it may have interrupted the display in the middle of a line
                interrupted = True
                shown.close()
                shown = log_lines()
                next(shown)
        shown.close()
    if interrupted:
        raise SystemExit(130)
    return process.returncode, [line for line in lines if line]


def forward(lines: Iterator[str], put: Callable[[str | None], None]) -> None:
    """Pass each line on, and `None` at the end."""
    for line in lines:
        put(line)
    put(None)


def is_terminal() -> bool:
    """Return whether standard output is a terminal that can rewrite a line."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def live_line() -> Generator[None, str, None]:
    """Keep one terminal line up to date with the progress that is sent in, and remove it at the end.

    Nothing is printed before the first progress, because sudo may be asking for a password.
    """
    started, text = time.monotonic(), ""
    try:
        while True:
            text = (yield) or text
            if text:
                width = shutil.get_terminal_size().columns - 1
                line = f"       {time.monotonic() - started:3.0f} s  {text}"
                print(f"\r\033[K{line[:width]}", end="", flush=True)
    finally:
        if text:
            print("\r\033[K", end="", flush=True)


def log_lines() -> Generator[None, str, None]:
    """Print each progress text that is sent in as a line, and the elapsed time if none was sent for a while."""
    started = last = time.monotonic()
    while True:
        text = yield
        now = time.monotonic()
        if text or now - last >= QUIET_SECONDS:
            last = now
            say(f"      {now - started:3.0f} s  {text or 'still working'}")


def fingerprint() -> str:
    """Return a digest of everything that the environment depends on."""
    digest = hashlib.sha256(sys.version.encode())
    digest.update(str(ROOT).encode())  # scripts in a virtual environment contain its path
    for path in (BOOTSTRAP, LOCK, ROOT / "pyproject.toml"):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def is_usable() -> bool:
    """Return whether ``.venv`` belongs to this checkout and this Python, so that it can be updated in place."""
    uv = VENV / "bin" / "uv"
    command = [str(VENV / "bin" / "python"), "-c", "import sys; print(sys.version, sys.prefix)"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        installer = subprocess.run([str(uv), "--version"], capture_output=True, check=False).returncode
    except OSError:
        return False
    return installer == 0 and answer == f"{sys.version} {VENV}" and not other_tensorflow()


def other_tensorflow() -> bool:
    """Return whether ``.venv`` contains a TensorFlow package that the lock file replaces.

    `tensorflow` and `tensorflow-cpu` install files into the same folder. Installing one over the other mixes them, and
    uninstalling one then breaks the other.
    """
    locked = re.findall(r"^(tensorflow(?:-cpu)?)==\S+ ; platform_machine (..) 'x86_64'", LOCK.read_text(), re.MULTILINE)
    wrong = {name for name, sign in locked if (sign == "==") != (platform.machine() == "x86_64")}
    return any(any(VENV.glob(f"lib/python*/site-packages/{name.replace('-', '_')}-*.dist-info")) for name in wrong)


def run(what: str, command: list[str], environment: dict[str, str]) -> None:
    """Run one installation step."""
    status, printed = follow(command, UV_PROGRESS, environment)
    if status != 0:
        lines = [line for line in printed if not line.startswith("WARNING: Retrying")]
        tail = "\n".join(lines[-6:])
        fail(f"{what} failed:\n{tail}", "Connect to a network with a Python package index, and run `make setup` again.")


def installer_environment() -> dict[str, str]:
    """Return the environment for uv: the machine's CA certificates, and pip's configured index, if any."""
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
    """Compile the native cipher, which makes sealing faster. If that fails, print the reason once."""
    script = [str(VENV / "bin" / "python"), str(ROOT / "scripts" / "native.py")]
    said = subprocess.run(script, check=False, capture_output=True, text=True, errors="replace").stderr.strip()
    if said and (not NATIVE_STAMP.is_file() or NATIVE_STAMP.read_text() != said):
        say(f"sealing and unsealing will be slower: {said}")
        NATIVE_STAMP.write_text(said)


def install_environment() -> bool:
    """Install the locked packages and sealserve itself (editable) into ``.venv``. Return whether that was necessary."""
    wanted = fingerprint()
    if STAMP.is_file() and STAMP.read_text() == wanted:
        return False
    python = VENV / "bin" / "python"
    if is_usable():
        step(1, "bringing .venv up to date")
        environment = installer_environment()
    else:
        step(1, f"creating .venv with Python {sys.version.split()[0]} (2 GB with TensorFlow; about a minute)")
        if VENV.exists():
            shutil.rmtree(VENV)
        run("creating the virtual environment", [sys.executable, "-m", "venv", str(VENV)], dict(os.environ))
        environment = installer_environment()
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--require-hashes"]
        run("installing the package installer", [*pip, "--requirement", str(BOOTSTRAP)], environment)
    # The lock file is complete. Without --no-deps, tensorflow would be required in addition to tensorflow-cpu.
    uv = [str(VENV / "bin" / "uv"), "pip", "install", "--python", str(python), "--no-deps"]
    step(2, "installing the locked Python packages, each checked against its hash")
    locked = [*uv, "--compile-bytecode", "--require-hashes", "--requirement", str(LOCK)]  # commands start faster
    run("installing the locked packages", locked, environment)
    step(3, "installing sealserve itself")
    run("installing sealserve", [*uv, "--no-build-isolation", "--editable", str(ROOT)], environment)
    STAMP.write_text(wanted)
    return True


def main(arguments: Sequence[str] = ()) -> None:
    """Install what is missing. With ``--benchmarks``, also install the program that sends the benchmarks' requests."""
    if not SUPPORTED[0] <= sys.version_info[:2] <= SUPPORTED[1]:
        fail(f"Python {sys.version.split()[0]} is not supported: expected 3.11, 3.12 or 3.13.")
    packages = missing_packages()
    if "--benchmarks" in arguments and shutil.which("h2load") is None:
        packages.append("nghttp2-client")
    if packages:
        install_packages(packages)
    started = time.monotonic()
    installed = install_environment()
    if installed:
        step(4, "compiling the native cipher, which makes sealing faster, if this machine has a C compiler")
    compile_native_cipher()
    if installed:
        say(f"ready after {time.monotonic() - started:.0f} s: .venv/bin/sealserve --help")


if __name__ == "__main__":
    main(sys.argv[1:])
