"""The check of the built site finds broken addresses, and what a browser would load from the network."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{name}_script", ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


site = _load("site")


def test_each_fault_of_a_site_is_reported(tmp_path: Path) -> None:
    (tmp_path / "style.css").write_text("@import 'https://fonts.example/a.css'; a { background: url(local.png) }")
    (tmp_path / "index.html").write_text(
        '<link rel="canonical" href="https://site.example/"><link rel="stylesheet" href="style.css">'
        '<h1 id="top">Title</h1><a href="#top">good</a><a href="page.html#there">good</a>'
        '<a href="https://elsewhere.example/">good</a><a href="#none">bad</a><a href="gone.html">bad</a>'
    )
    (tmp_path / "page.html").write_text(
        '<h1 id="there">Title</h1><script src="https://cdn.example/a.js"></script><img src="missing.svg">'
        '<p style="background: url(//cdn.example/b.png)"></p>'
    )
    assert list(site.problems(tmp_path)) == [
        "index.html refers to #none, and the page has no such heading",
        "index.html refers to gone.html, which does not exist",
        "page.html loads https://cdn.example/a.js from the network",
        "page.html loads //cdn.example/b.png from the network",
        "page.html refers to missing.svg, which does not exist",
        "style.css loads https://fonts.example/a.css from the network",
    ]


def test_every_reference_page_is_fresh() -> None:
    reference = _load("reference")
    for name in reference.PAGES:
        page = (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8")
        assert page == reference.render(name), f"{name}: run `make reference`"


def test_the_command_reference_has_every_option_of_a_command() -> None:
    page = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    section = page.partition("## `sealserve seal`\n")[2].partition("\n## ")[0]
    assert "sealserve seal [OPTIONS] {INPUT} {OUTPUT}" in section
    for expected in ("`INPUT <path>`", "`-w, --key-file <path>`", "`--format <1.0\\|2.0>`", "*required*"):
        assert expected in section


def test_a_recording_is_an_excerpt_of_the_demo() -> None:
    media = _load("media")
    circled = "①②③④⑤⑥⑦⑧⑨⑩⑪⑫"
    below = (
        "    The first sentence",
        "    goes on. The second one",
        "    does not fit.",
        "      evidence",
        "      more",
    )
    steps = [line for n in circled for line in (f"\x1b[1m{n}  Step\x1b[0m", *below)]
    output = [
        "a heading",
        "·  Preparation",
        "    left out",
        *steps,
        "·  The proof",
        "    shown",
        "·  The end",
        "9 s in all.",
    ]
    kept = media.excerpt(output)
    assert kept[0] == "a heading"
    assert [line for line in kept if line.startswith("·")] == ["·  The proof"]
    assert [kept.count(line) for line in (below[0], "    goes on.", *below[2:], "    left out")] == [
        12,
        12,
        0,
        12,
        0,
        0,
    ]
    picture = media.picture(kept)
    assert "url(http" not in picture
    assert not any(number in picture for number in circled)
