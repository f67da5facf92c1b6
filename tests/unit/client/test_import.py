"""What `import sealserve.client` loads: a program that sends a request starts with it."""

import subprocess
import sys

HEAVY = {"aiohttp", "httpx", "kubernetes", "pydantic", "rich", "sqlalchemy", "tensorflow", "typer", "yaml",
         "sealserve.cli", "sealserve.deployment", "sealserve.owner"}  # fmt: skip


def test_the_client_loads_nothing_that_it_does_not_need() -> None:
    code = f"import sys, sealserve.client; print(sorted({HEAVY!r} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
