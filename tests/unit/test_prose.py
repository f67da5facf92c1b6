"""The prose check finds bad sentences on their lines, and lets good ones pass."""

import importlib.util
import sys
import textwrap
from pathlib import Path
from types import ModuleType

import pytest
from tests.harness.missing import missing

SCRIPT = Path(__file__).parents[2] / "scripts" / "prose.py"
LONG = " ".join(["The broker checks"] + ["the measurement and"] * 10) + "."


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prose_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


prose = _load()


@pytest.fixture(scope="module")
def vale() -> Path:
    if not prose.VALE.is_file():
        missing("Vale is not built: run `make prose` where Go is installed")
    return prose.VALE  # type: ignore[no-any-return]  # a Path of the script


BAD = [
    ("The deployment file is no TOML.", "Order"),
    ("The output is there already.", "Order"),
    ("Interrupt the rotation, or let go of the lock.", "Order"),
    ("Each replica has a process of its own.", "Order"),
    ("The keystore misreports that nobody is at it.", "Subjects"),
    ("Strangers cannot trigger downloads.", "Subjects"),
    ("Gramine here is another one.", "Subjects"),
    ("Remove those that have expired.", "Subjects"),
    ("This key and that of the broker differ.", "Subjects"),
    ("What is missing is made first.", "Riddles"),
    ("Whose key it is does not matter.", "Riddles"),
    ("This target knows two networks.", "Software"),
    ("Nothing is wrong, and the log says so.", "Software"),
    ("The server initialises the model.", "American"),
    ("The server serves a modle.", "Spelling"),
    (LONG, "Length"),
]

GOOD = [
    "There is no limit, and the default is no timeout.",
    "The certificate is no longer valid.",
    "The broker releases a key at most once per minute.",
    "The host is no more than a courier.",
    "What is an enclave?",
    "What a quote proves depends on the platform, so read the threat model.",
    "The host sees ciphertext only.",
    "Each replica runs in its own enclave.",
    "The test checks that of 20 requests none fails.",
    "The command that prints the report exits with status 1.",
    "An exercise in compromised advertising promises surprises.",
    "Make nothing public, and go on to the next step.",
    "The PCCS, `sealserve.toml` and vCPU limits are `mispeled` here only as code.",
    "| option | meaning |\n|---|---|\n| `--no-such` | maximum number of start attempts |",
    "```console\n$ whoever is at it is no TOML, mispeled\n```",
]


def test_bad_sentences_are_found_and_good_ones_pass(vale: Path, tmp_path: Path) -> None:
    pages = {tmp_path / f"bad-{n}.md": bad for n, (bad, _) in enumerate(BAD)}
    pages |= {tmp_path / f"good-{n}.md": good for n, good in enumerate(GOOD)}
    for path, text in pages.items():
        path.write_text(f"# A page\n\nThe first paragraph is good.\n\n{text}\n", encoding="utf-8")
    found = {(pages[Path(each.path)], each.line, each.rule) for each in prose.check(list(pages), vale)}
    assert found == {(sentence, 5, rule) for sentence, rule in BAD}


def findings(vale: Path, path: Path, text: str) -> list[tuple[int, str]]:
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return [(found.line, found.rule) for found in prose.check([path], vale)]


def test_findings_in_python_have_the_lines_of_the_source(vale: Path, tmp_path: Path) -> None:
    source = '''\
        """Return the key of a release.

        Strangers cannot read it.

            strangers = this(block, is_code)

        Args:
            key: What is read.
            other: Whoever asked
                for the key, or somebody.
        """

        # The broker checks the certificate, and then the file
        # says which release it is.
        value = 1  # the client knows it

        raise CODE.error(
            f"The release {name!r} "
            f"is no folder of {other}.",
            hint="Ask whoever wrote `it is no TOML`.",
        )
        QUERY = "SELECT nobody FROM strangers WHERE whoever"
        PATTERN = re.compile("the server says something about strangers")
        TEMPLATE = """
        # This page knows nothing.
        server { nobody whoever }
        """
    '''
    assert findings(vale, tmp_path / "module.py", source) == [
        (3, "Subjects"),
        (8, "Riddles"),
        (9, "Subjects"),
        (10, "Subjects"),
        (13, "Software"),
        (15, "Software"),
        (19, "Order"),
        (20, "Subjects"),
        (25, "Software"),
    ]


def test_names_of_code_are_not_spelling_mistakes(vale: Path, tmp_path: Path) -> None:
    source = '''\
        """Read `docker.subnet`, as ``mr_enclave`` or sgx.debug and x86_64 have it."""

        raise CODE.error(f"{path}: --no-wraith and /etc/aesmd.conf need service.restport, not <hexdigits>.")
    '''
    assert findings(vale, tmp_path / "module.py", source) == []


def test_code_at_the_end_of_a_sentence_does_not_hide_the_end(vale: Path, tmp_path: Path) -> None:
    words = " ".join(["word"] * 20)
    source = f'''\
        """Read a file.

        This {words} a whole /64. Refusals {words} --flag=5. This {words} `code`. That {words} sgx.debug.
        """
    '''
    assert findings(vale, tmp_path / "module.py", source) == []


def test_citations_are_not_sentences(vale: Path, tmp_path: Path) -> None:
    source = f'''\
        """Parse a quote.

        Source: {LONG} strangers.
        """
        # Source: whoever, "Title", section 3.
    '''
    assert findings(vale, tmp_path / "module.py", source) == []


@pytest.mark.parametrize("setting", ["", "all"])
def test_without_go_the_check_is_skipped_but_not_in_ci(
    setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, beginning = (4, "error: ") if setting == "all" else (0, "skipped: ")
    monkeypatch.setenv("SEALSERVE_TESTS", setting)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(prose, "VALE", tmp_path / "vale")
    monkeypatch.setattr(sys, "argv", ["prose.py"])
    with pytest.raises(SystemExit) as ended:
        prose.main()
    assert ended.value.code == status
    assert capsys.readouterr().err.startswith(f"prose: {beginning}Vale is not built and Go is not installed")
