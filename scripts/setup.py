#!/usr/bin/env python3
"""Set up a checkout: distribution packages, the virtual environment, the locked Python packages.

Only the standard library is used, and nothing is done twice: a second run ends at once. What will be installed is
said before it is installed, and each step prints its number. `make setup` calls this with a supported Python.
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
"""In a log, an unfinished step prints a line after this many seconds without one."""
UV_PROGRESS = re.compile(r"(Resolved|Downloading|Prepared|Installed) .+")
"""The lines of `uv pip install` that show how far it is. The list of all packages is not among them."""
APT_PROGRESS = re.compile(r"(Need to get|Get:\d+|Unpacking|Setting up) .+")
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


def step(number: int, what: str) -> None:
    """Print the beginning of one of the steps."""
    say(f"[{number}/{STEPS}] {what}")


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
    status, lines = follow(command, APT_PROGRESS)
    if status != 0:
        tail = "\n".join(lines[-8:])
        fail(f"the packages could not be installed:\n{tail}", f"By hand, as root: apt-get update && {by_hand}")


def follow(
    command: Sequence[str | Path], progress: re.Pattern[str], environment: dict[str, str] | None = None
) -> tuple[int, list[str]]:
    """Run a command and show how far it is. Ctrl-C reaches it as well: it cleans up, and only then do we end.

    Args:
        command: The program and its arguments.
        progress: The lines of its output that show how far it is.
        environment: The environment of the command. `None` means that of this process.

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
            except KeyboardInterrupt:  # it may have ended the display in the middle of a line
                interrupted = True
                shown.close()
                shown = log_lines()
                next(shown)
        shown.close()
    if interrupted:
        raise SystemExit(130)
    return process.returncode, [line for line in lines if line]


def forward(lines: Iterator[str], put: Callable[[str | None], None]) -> None:
    """Hand each line on, and `None` at the end."""
    for line in lines:
        put(line)
    put(None)


def is_terminal() -> bool:
    """Return whether standard output is a terminal that can rewrite a line."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def live_line() -> Generator[None, str, None]:
    """Keep one line of a terminal up to date with the progress that is sent in, and remove it at the end.

    Nothing is printed before there is progress: sudo may be asking for a password.
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
    """Print the progress that is sent in, a line each, and the time where nothing was sent in for a while."""
    started = last = time.monotonic()
    while True:
        text = yield
        now = time.monotonic()
        if text or now - last >= QUIET_SECONDS:
            last = now
            say(f"      {now - started:3.0f} s  {text or 'still working'}")


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
    return installer == 0 and answer == f"{sys.version} {VENV}" and not other_tensorflow()


def other_tensorflow() -> bool:
    """Return whether ``.venv`` holds a TensorFlow that the lock file replaces.

    `tensorflow` and `tensorflow-cpu` put their files into the same folder. Installing one over the other leaves a mix,
    and uninstalling one then breaks the other.
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


def install_environment() -> bool:
    """Make ``.venv`` hold the locked packages, and sealserve itself in editable form; return whether it had to."""
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
    # The lock file is complete. Without --no-deps, tensorflow would be required beside tensorflow-cpu.
    uv = [str(VENV / "bin" / "uv"), "pip", "install", "--python", str(python), "--no-deps"]
    step(2, "installing the locked Python packages, each checked against its hash")
    locked = [*uv, "--compile-bytecode", "--require-hashes", "--requirement", str(LOCK)]  # each verb starts sooner
    run("installing the locked packages", locked, environment)
    step(3, "installing sealserve itself")
    run("installing sealserve", [*uv, "--no-build-isolation", "--editable", str(ROOT)], environment)
    STAMP.write_text(wanted)
    return True


def main(arguments: Sequence[str] = ()) -> None:
    """Set up what is missing; with ``--benchmarks``, also the program that sends requests for them."""
    if not SUPPORTED[0] <= sys.version_info[:2] <= SUPPORTED[1]:
        fail(f"Python {sys.version.split()[0]} is not supported: 3.11, 3.12 or 3.13 is needed.")
    packages = missing_packages()
    if "--benchmarks" in arguments and shutil.which("h2load") is None:
        packages.append("nghttp2-client")
    if packages:
        install_packages(packages)
    started = time.monotonic()
    installed = install_environment()
    if installed:
        step(4, "compiling the code that makes sealing faster, where this machine has a C compiler")
    compile_native_cipher()
    if installed:
        say(f"ready after {time.monotonic() - started:.0f} s: .venv/bin/sealserve --help")


if __name__ == "__main__":
    main(sys.argv[1:])
