import os
import subprocess
import sys

from sealserve.enclave.simulated.manifest_in_memory import manifest_in_memory

CONTENT = b"key = '00112233'" * 1000


def test_a_started_program_opens_it_by_its_path_and_nothing_is_left() -> None:
    with manifest_in_memory("replica-0", CONTENT) as manifest:
        path = manifest.application.with_name("replica-0.manifest")
        assert path.is_symlink()
        assert path.stat().st_mode & 0o777 == 0o600
        code = "import pathlib, sys; sys.stdout.write(pathlib.Path(sys.argv[1] + '.manifest').read_text())"
        read = subprocess.run(
            [sys.executable, "-c", code, str(manifest.application)],
            capture_output=True, check=True, pass_fds=(manifest.descriptor,),
        ).stdout  # fmt: skip
        assert read == CONTENT
        kept = os.dup(manifest.descriptor)
    assert not path.parent.exists()
    assert os.pread(kept, len(CONTENT), 0) == bytes(len(CONTENT)), "it was overwritten"
    os.close(kept)


def test_another_program_does_not_inherit_it() -> None:
    with manifest_in_memory("replica-0", CONTENT) as manifest:
        code = "import os, sys; os.fstat(int(sys.argv[1]))"
        ended = subprocess.run(
            [sys.executable, "-c", code, str(manifest.descriptor)], capture_output=True, check=False, close_fds=False
        )
    assert b"Bad file descriptor" in ended.stderr


def test_it_is_overwritten_after_an_error() -> None:
    context = manifest_in_memory("replica-0", CONTENT)
    kept = os.dup(context.__enter__().descriptor)
    assert not context.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
    assert os.pread(kept, len(CONTENT), 0) == bytes(len(CONTENT))
    os.close(kept)
