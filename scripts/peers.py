"""Create the environments of other model servers for the benchmark, each with its own locked packages."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEERS = ("kserve", "mlserver")


def main() -> None:
    """Create ``.venv-peers/NAME`` for each peer, or update it to its lock file."""
    uv = str(Path(sys.executable).with_name("uv"))
    for peer in PEERS:
        folder = ROOT / ".venv-peers" / peer
        if not (folder / "bin" / "python").exists():
            subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(folder)], check=True)
        lock = ROOT / "bench" / "peers" / f"{peer}.lock"
        print(f"peers: {peer}: installing the packages of {lock.relative_to(ROOT)}", flush=True)
        subprocess.run(
            [uv, "pip", "sync", "--quiet", "--require-hashes", "--python", str(folder / "bin" / "python"), str(lock)],
            check=True,
        )


if __name__ == "__main__":
    main()
