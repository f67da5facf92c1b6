"""Programs that take the options of Gramine's build tools and do what their documentation says, for tests without it.

The measurement differs from Gramine's: it is a digest of the manifest's bytes.

Source: Gramine 1.9, ``python/gramine-manifest``, ``python/gramine-sgx-sign``, ``python/graminelibos/manifest.py``
(defaults that Manifest fills in).
"""

import sys
from pathlib import Path

_MANIFEST = """
import sys
check, template, output = sys.argv[1:]
assert check == "--check"
text = open(template).read()
assert text.startswith("{% raw %}") and text.endswith("{% endraw %}\\n")
open(output, "w").write(text[len("{% raw %}"):-len("{% endraw %}\\n")])
"""

_SIGN = """
import argparse, datetime, hashlib, tomllib, tomli_w
from cryptography.hazmat.primitives import serialization
from sealserve.sgx.report import Attributes
from sealserve.sgx.sigstruct import ATTRIBUTE_MASK, PRODUCTION_ATTRIBUTES, Sigstruct, xfrm_of

parser = argparse.ArgumentParser()
for name in ("manifest", "output", "sigfile", "libpal", "date", "key"):
    parser.add_argument(f"--{name}", required=True)
parser.add_argument("--quiet", action="store_true")
given = parser.parse_args()
manifest = tomllib.loads(open(given.manifest).read())
sgx = manifest["sgx"]
sgx.setdefault("cpu_features", {"avx": "unspecified", "avx512": "unspecified", "amx": "unspecified",
                                "mpx": "disabled", "pkru": "disabled"})
CHANGE
required = xfrm_of(name for name, value in sgx["cpu_features"].items() if value == "required")
text = tomli_w.dumps(manifest).encode()
open(given.output, "wb").write(text)
key = serialization.load_pem_private_key(open(given.key, "rb").read(), password=None)
sigstruct = Sigstruct.sign(mr_enclave=hashlib.sha256(text + open(given.libpal, "rb").read()).digest(), key=key,
    signed_on=datetime.date.fromisoformat(given.date), isv_prod_id=sgx["isvprodid"], isv_svn=sgx["isvsvn"],
    attributes=Attributes(flags=PRODUCTION_ATTRIBUTES.flags, xfrm=PRODUCTION_ATTRIBUTES.xfrm | required),
    attribute_mask=Attributes(flags=ATTRIBUTE_MASK.flags, xfrm=ATTRIBUTE_MASK.xfrm | required))
open(given.sigfile, "wb").write(sigstruct.to_bytes())
"""


def install(prefix: Path, *, libpal: bytes = b"loader", change: str = "", failure: str = "") -> Path:
    """Write the programs, and the loader that they measure, below ``prefix``; return the folder with the programs.

    Args:
        prefix: The place.
        libpal: The loader's content.
        change: Python code that changes ``manifest`` before it is signed.
        failure: What ``gramine-sgx-sign`` says before it fails; empty to work.
    """
    programs = prefix / "bin"
    programs.mkdir(parents=True)
    place = prefix / "lib/x86_64-linux-gnu/gramine/sgx/libpal.so"
    place.parent.mkdir(parents=True)
    place.write_bytes(libpal)
    sign = f"import sys; sys.exit({failure!r})" if failure else _SIGN.replace("CHANGE", change)
    for name, code in (("gramine-manifest", _MANIFEST), ("gramine-sgx-sign", sign)):
        path = programs / name
        path.write_text(f"#!{sys.executable}\n{code}")
        path.chmod(0o755)
    return programs
