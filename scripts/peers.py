"""Make the environments of the servers that the benchmark measures beside ours, each with its own locked packages."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEERS = ("kserve", "mlserver")


def main() -> None:
    """Make ``.venv-peers/NAME`` for each peer, or bring it in step with its lock file."""
    uv = str(Path(sys.executable).with_name("uv"))
    for peer in PEERS:
        folder = ROOT / ".venv-peers" / peer
        if not (folder / "bin" / "python").exists():
            subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(folder)], check=True)
        lock = ROOT / "bench" / "peers" / f"{peer}.lock"
        print(f"peers: {peer}: installing what {lock.relative_to(ROOT)} names", flush=True)
        subprocess.run(
            [uv, "pip", "sync", "--quiet", "--require-hashes", "--python", str(folder / "bin" / "python"), str(lock)],
            check=True,
        )


if __name__ == "__main__":
    main()
