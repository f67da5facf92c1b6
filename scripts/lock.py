"""Resolve the locked versions again: one universal lock file for each set, with hashes and without an index name."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# tensorflow-serving-api requires tensorflow, which contains 0.6 GB of GPU code. The lock files contain tensorflow-cpu
# instead. A requirement in pyproject.toml could not do this: pip would install both into the same folder.
TENSORFLOW = ["requirements/tensorflow.in", "--override", "requirements/overrides.in"]
SETS = {
    # What each image has: the broker's packages and the client's.
    "base": ["pyproject.toml", "--extra", "owner", "--extra", "postgresql"],
    # What only the broker's image has besides.
    "pkcs11": ["pyproject.toml", "--extra", "pkcs11"],
    # What an owner needs besides, to verify and to make signatures of models.
    "model-signing": ["pyproject.toml", "--extra", "model-signing"],
    "server": ["pyproject.toml", "--extra", "server", *TENSORFLOW],
    "dev": ["pyproject.toml", "--extra", "all", "--group", "dev", *TENSORFLOW],
    "fuzz": ["--group", "fuzz"],
    "docs": ["--group", "docs"],
}


def main() -> None:
    """Write all lock files, with the largest set's versions in the smaller sets."""
    uv = str(Path(sys.executable).with_name("uv"))
    options = [
        "--quiet",
        "--generate-hashes",
        "--universal",
        "--python-version",
        "3.11",
        "--no-header",
        "--no-annotate",
    ]
    whole = ROOT / "requirements" / "dev.lock"
    for name in ("dev", "server", "base", "pkcs11", "model-signing", "fuzz", "docs"):
        held = [] if name == "dev" else ["--constraint", str(whole)]
        output = ROOT / "requirements" / f"{name}.lock"
        subprocess.run([uv, "pip", "compile", *options, *SETS[name], *held, "--output-file", str(output)],
                       check=True, cwd=ROOT, stdout=subprocess.DEVNULL)  # fmt: skip
        print(f"{output.relative_to(ROOT)}: {output.read_text().count('==')} packages")
    for separate in ("bench/peers/kserve", "bench/peers/mlserver", "testbed/stock_clients/clients"):
        source, output = ROOT / f"{separate}.in", ROOT / f"{separate}.lock"
        command = [uv, "pip", "compile", *options, str(source), "--output-file", str(output)]
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        print(f"{separate}.lock: {output.read_text().count('==')} packages")
    lines = whole.read_text().split("\n")
    start = next(index for index, line in enumerate(lines) if line.startswith("uv=="))
    end = next(index for index in range(start + 1, len(lines)) if not lines[index].startswith("    "))
    (ROOT / "requirements" / "bootstrap.lock").write_text("\n".join(lines[start:end]) + "\n")


if __name__ == "__main__":
    main()
