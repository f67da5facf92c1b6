import json
import sys
from pathlib import Path

import pytest
from tests.harness.command_line import CommandLine
from tests.harness.model_signatures import KeySigner
from tests.harness.workspaces import Site

from sealserve.owner.model_signature import key_digest


def test_build_show_verify_list(ready: Site, cli: CommandLine) -> None:
    assert cli.ok("release", "list") == (
        "The workspace does not contain releases yet. Build one: `sealserve release build`.\n"
    )
    assert cli.json("release", "list") == []
    built = cli("release", "build")
    assert built.status == 0
    assert built.err == "Next: `sealserve up`, or `sealserve enclave build` if the host is another machine.\n"
    fields = dict(line.split(maxsplit=1) for line in built.out.replace("key id", "key-id").splitlines())
    assert fields["release"] == f"half-plus-two-{fields['id'][:12]}"
    assert fields["folder"] == str(ready.workspace.owner.releases / fields["release"])

    shown = cli.json("release", "show", fields["id"][:6])
    assert shown["id"] == fields["id"]
    assert shown["key_id"] == fields["key-id"]
    assert shown["simulated"] is True
    text = cli.ok("release", "show")
    assert "simulated" in text
    assert "models/half-plus-two/1/saved_model.pb" in text

    assert (
        cli.ok("release", "verify")
        == f"{fields['release']}: the owner's signature and all 5 files are valid; it does not contain enclaves yet.\n"
    )
    assert cli.json("release", "verify") == {
        "id": fields["id"], "folder": fields["folder"], "files": 5, "enclaves": []
    }  # fmt: skip
    cli.ok("enclave", "build")
    assert cli.ok("release", "verify").endswith("all 5 files are valid; its enclave is valid.\n")
    cli.ok("enclave", "build", "--name", "replica-1")
    assert cli.ok("release", "verify").endswith("all 5 files are valid; its 2 enclaves are valid.\n")
    assert cli.json("release", "verify")["enclaves"] == ["replica-0", "replica-1"]
    (row,) = cli.json("release", "list")
    assert (row["id"], row["servables"], row["simulated"]) == (fields["id"], ["half-plus-two:1"], True)
    heading, line = cli.ok("release", "list").splitlines()
    assert heading.split() == ["RELEASE", "CREATED", "(UTC)", "SERVABLES", "PLATFORM", "SIZE"]
    assert line.startswith(fields["release"] + "  ")


def test_a_build_for_programs(ready: Site, cli: CommandLine) -> None:
    built = cli("release", "build", "--json")
    assert set(built.json) == {"id", "folder", "key_id"}
    assert built.err == ""
    assert Path(built.json["folder"]).parent == ready.workspace.owner.releases


def test_a_build_names_the_signers_of_models(ready: Site, cli: CommandLine, tmp_path: Path) -> None:
    pytest.importorskip("model_signing", reason="model-signing is missing: `make setup` installs it")
    signer = KeySigner.create(tmp_path)
    built = cli.ok("release", "build", "--sign-model", signer.private)
    identity = key_digest(signer.key.public_key())
    place = ready.workspace.owner.models / "half-plus-two" / "1.sig"
    assert f"half-plus-two:1: key {identity}\n" in built
    assert f"{place}\n" in built
    assert place.is_file()
    assert f"half-plus-two:1: key {identity}\n" in cli.ok("release", "show")
    assert cli.json("release", "show")["servables"][0]["signers"] == [
        {"version": 1, "signer": {"method": "key", "identity": identity, "issuer": None}}
    ]
    assert cli.json("release", "build", "--sign-model", signer.private)["signatures"] == [str(place)]
    error = cli.error("release", "build", "--sign-model", tmp_path / "none")
    assert (error["code"], error["status"]) == ("model-signature.key", 2)


def test_a_signer_without_the_extra(ready: Site, cli: CommandLine, tmp_path: Path) -> None:
    signer = KeySigner.create(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "model_signing", None)
        error = cli.error("release", "build", "--sign-model", signer.private)
    assert (error["code"], error["status"]) == ("install.extra", 4)
    assert "pip install 'sealserve[model-signing]'" in error["hint"]
    assert not list(ready.workspace.owner.releases.iterdir())


def test_a_build_needs_a_model(cli: CommandLine) -> None:
    error = cli.error("release", "build")
    assert (error["code"], error["status"]) == ("model.not-imported", 2)


def test_a_release_travels(ready: Site, cli: CommandLine, tmp_path: Path) -> None:
    name = Path(cli.json("release", "build")["folder"]).name
    packed = cli.ok("release", "pack", tmp_path / "a.tar")
    assert packed.startswith(f"Wrote {tmp_path / 'a.tar'} (0.0 MB). It contains no plaintext and no key.")
    assert cli("release", "pack", tmp_path / "a.tar").err.startswith("error[file.exists]")
    cli.ok("release", "pack", tmp_path / "a.tar", name, "--force")
    assert cli.ok("release", "list", "--host").startswith("The workspace does not contain releases yet")
    unpacked = cli.ok("release", "unpack", tmp_path / "a.tar")
    place = ready.workspace.host.releases
    assert unpacked == f"{name}: unpacked to {place} and verified; it does not contain enclaves yet.\n"
    assert [Path(row["folder"]).parent for row in cli.json("release", "list", "--host")] == [
        ready.workspace.host.releases
    ]
    assert cli.json("release", "verify", "--host")["folder"] == str(ready.workspace.host.releases / name)
    assert cli.json("release", "show", name, "--host")["created"]
    assert cli("release", "unpack", tmp_path / "a.tar").status != 0


def test_anybody_with_the_owners_key_can_verify(ready: Site, cli: CommandLine, tmp_path: Path) -> None:
    folder = cli.json("release", "build")["folder"]
    key = ready.workspace.host.owner_key
    assert cli.bare("release", "verify", folder, "--owner-key", key).status == 0
    (tmp_path / "other.pub").write_text("nothing")
    error = cli.error("release", "verify", folder, "--owner-key", tmp_path / "other.pub")
    assert error["code"] == "owner-key.unreadable"


@pytest.mark.usefixtures("ready")
def test_tampering_has_status_3(cli: CommandLine) -> None:
    folder = Path(cli.json("release", "build")["folder"])
    sealed = folder / "tls/clients.cfg"
    content = bytearray(sealed.read_bytes())
    content[2000] ^= 1
    sealed.write_bytes(content)
    error = cli.error("release", "verify")
    assert (error["code"], error["status"]) == ("release.file-changed", 3)
    assert "tls/clients.cfg" in error["message"]
    index = json.loads((folder / "release.json").read_bytes())
    (folder / "release.json").write_text(json.dumps({**index, "simulated": False}))
    assert cli.error("release", "show")["code"] == "index.bad-signature"
    sound = cli.json("release", "build")["id"]
    listed = cli("release", "list", "--json")
    faulty, other = json.loads(listed.out)
    assert (faulty["folder"], faulty["error"]["code"]) == (str(folder), "index.bad-signature")
    assert other["id"] == sound
    assert listed.status == 3
    shown = cli("release", "list")
    assert shown.status == 3
    assert f"{folder.name}  -" in shown.out
    assert sound[:8] in shown.out
    assert "error[index.bad-signature]: " in shown.err


@pytest.mark.usefixtures("ready")
def test_names_that_fit_none_or_several(cli: CommandLine) -> None:
    error = cli.error("release", "show", "nothing")
    assert (error["code"], error["status"]) == ("release.missing", 2)
    for _ in range(2):
        cli.ok("release", "build")
    error = cli.error("release", "show", "")
    assert (error["code"], error["hint"]) == ("release.ambiguous", "Give the full name, or more of the id.")
    assert "is ambiguous: it matches half-plus-two-" in error["message"]
