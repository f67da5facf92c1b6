"""Build the documentation site into ``build/site``, and check what MkDocs does not check.

MkDocs and its theme have their own lock file and virtual environment, ``.venv-docs``, because no other target needs
them. The build runs without a network after they are installed.

MkDocs fails on broken links in Markdown (``strict``). This script also checks every address in the HTML. A missing
file is an error. An address that a browser loads from the network, such as a font or a script, is an error too.
"""

import argparse
import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".venv-docs"
LOCK = ROOT / "requirements" / "docs.lock"
SITE = ROOT / "build" / "site"
LOADED = frozenset({"script", "link", "img", "source", "iframe", "object", "embed", "video", "audio", "use", "image"})
"""Elements whose addresses a browser loads by itself."""
NOT_LOADED = frozenset({"canonical", "next", "prev", "edit", "alternate"})
"""Relations of ``link`` elements that are only references."""
CSS_ADDRESS = re.compile(r"""(?:url\(|@import)\s*['"]?((?:https?:)?//[^'")\s]+)""")


class Addresses(HTMLParser):
    """The addresses and the anchors of a page.

    Attributes:
        loaded: What a browser loads to show the page.
        linked: Where its links lead.
        anchors: The names that links to this page may end with.
    """

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Record the addresses of an element."""
        values = dict(attrs)
        for name in ("id", "name"):
            self.anchors.add(values.get(name) or "")
        self.loaded += CSS_ADDRESS.findall(values.get("style") or "")
        is_reference = tag == "link" and values.get("rel") in NOT_LOADED
        for name in ("src", "href", "xlink:href", "data", "poster"):
            if address := values.get(name):
                kind = self.loaded if tag in LOADED and not is_reference else self.linked
                kind.append(address)


def main() -> None:
    """Build and check the site. With ``--serve``, show it while its pages are edited."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", action="store_true", help="serve the site on 127.0.0.1:8000 and rebuild on changes")
    serve = parser.parse_args().serve
    install()
    verb = ["serve"] if serve else ["build", "--clean", "--strict"]
    # The theme prints an announcement of its maker unless this variable is set.
    environment = dict(os.environ, NO_MKDOCS_2_WARNING="1", PYTHONDONTWRITEBYTECODE="1")
    result = subprocess.run([ENVIRONMENT / "bin" / "mkdocs", *verb], cwd=ROOT, env=environment, check=False)
    faults = [] if serve or result.returncode else list(problems(SITE))
    for fault in faults:
        print(f"docs: error: {fault}", file=sys.stderr)
    if result.returncode or faults:
        raise SystemExit(1)
    if not serve:
        print(f"docs: {len(list(SITE.rglob('*.html')))} pages, {SITE.relative_to(ROOT)}/index.html")


def install() -> None:
    """Create the environment, or bring it in step with its lock file."""
    stamp = ENVIRONMENT / "sealserve-docs.stamp"
    wanted = hashlib.sha256(LOCK.read_bytes() + sys.version.encode()).hexdigest()
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    print(f"docs: installing the packages of {LOCK.relative_to(ROOT)}", flush=True)
    uv, python = str(Path(sys.executable).with_name("uv")), str(ENVIRONMENT / "bin" / "python")
    if not Path(python).exists():
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(ENVIRONMENT)], check=True)
    subprocess.run([uv, "pip", "sync", "--quiet", "--require-hashes", "--python", python, str(LOCK)], check=True)
    stamp.write_text(wanted)


def problems(site: Path) -> Iterator[str]:
    """Yield each broken address of a built site, and each address that is loaded from the network."""
    pages = {path: _read(path) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        for address in page.loaded:
            if urlsplit(address).netloc:
                yield f"{path.relative_to(site)} loads {address} from the network"
        if path.name != "404.html":  # a web server shows it at any address, so its own addresses are absolute
            yield from (f"{path.relative_to(site)} {fault}" for fault in _broken(path, pages))
    for path in sorted((*site.rglob("*.css"), *site.rglob("*.svg"))):
        for address in CSS_ADDRESS.findall(path.read_text(encoding="utf-8")):
            yield f"{path.relative_to(site)} loads {address} from the network"


def _broken(path: Path, pages: Mapping[Path, Addresses]) -> Iterator[str]:
    for address in (*pages[path].loaded, *pages[path].linked):
        parts = urlsplit(address)
        if parts.scheme or parts.netloc:
            continue
        target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        if target.is_dir():
            target /= "index.html"
        if not target.is_file():
            yield f"refers to {address}, which does not exist"
        elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
            yield f"refers to {address}, and the page has no such heading"


def _read(path: Path) -> Addresses:
    page = Addresses()
    page.feed(path.read_text(encoding="utf-8"))
    return page


if __name__ == "__main__":
    main()
