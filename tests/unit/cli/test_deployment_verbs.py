"""`up`, `status`, `logs`, `scale`, `down`, `render` where nothing runs (tests/integration has the real thing)."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.harness.command_line import CommandLine
from tests.harness.workspaces import Site, make_site

from sealserve.bundle import Bundle
from sealserve.cluster import ports
from sealserve.cluster.local import target as local
from sealserve.ingress.nginx_program import NginxProgram
from sealserve.owner import provisioning


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which another process listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


NO_TIME = " " * 24
"""Text before a log line without a time."""


def test_nothing_runs(cli: CommandLine) -> None:
    shown = cli("status")
    assert (shown.status, shown.err) == (6, "")
    assert shown.out == "State      down\n! The deployment is not running. Start it: `sealserve up`.\n"
    told = cli("status", "--json")
    assert (told.status, told.json["state"], told.json["parts"]) == (6, "down", [])
    assert cli.ok("down") == "Nothing to stop.\n"
    assert cli.json("down", "--yes") == {"stopped": []}
    error = cli.error("scale", "2")
    assert (error["code"], error["status"]) == ("target.not-up", 2)
    assert error["message"] == "The deployment is not running: it has no replicas to scale."


def test_a_file_with_former_keys_works_and_names_the_new_ones_once(cli: CommandLine) -> None:
    file = cli.directory / "sealserve.toml"
    lines = [line for line in file.read_text().splitlines() if not line.startswith("storage_class =")]
    heading = next(number for number, line in enumerate(lines) if line.startswith("[kubernetes]"))
    file.write_text("\n".join([*lines[: heading + 1], 'storage_class = "nfs"', *lines[heading + 1 :]]))
    result = cli("status", "--json")
    assert (result.status, result.json["parts"]) == (6, [])
    assert result.err == (
        f"warning: {file} has keys with deprecated names. Rename them:\n"
        f"  line {heading + 2}: kubernetes.storage_class is now kubernetes.store.storage_class\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("scale", "65"),
            "The target local runs at most 64 replicas, got 65: each replica is a process with TensorFlow",
        ),
        (("up", "--replicas", "65"), "The target local runs at most 64 replicas, got 65: "),
        (("up", "--target", "docker", "--replicas", "126"), "The target docker runs at most 125 replicas, got 126: "),
        (("render", "docker", "--replicas", "126"), "The target docker runs at most 125 replicas, got 126: docker.sub"),
        (
            ("render", "kubernetes", "--replicas", "1001"),
            "The target kubernetes runs at most 1000 replicas, got 1001: ",
        ),
    ],
)
def test_more_replicas_than_a_target_can_run(cli: CommandLine, arguments: tuple[str, ...], message: str) -> None:
    result = cli(*arguments)
    assert result.status == 2
    assert result.err.startswith(f"error[target.unsupported]: {message}")
    assert "Request at most " in result.err


def test_a_target_that_is_not_there(cli: CommandLine) -> None:
    for target in ("moon", "Docker"):
        error = cli.error("up", "--target", target)
        assert (error["code"], error["status"]) == ("target.unsupported", 2)
        assert error["message"] == f"The target {target!r} does not exist."


def test_a_cluster_that_is_not_there(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    elsewhere = CommandLine(capsys, make_site(tmp_path / "k8s", target={"kind": "kubernetes"}).directory)
    error = elsewhere.error("up")
    assert (error["code"], error["status"]) == ("kubernetes.unreachable", 4)


def test_enclaves_for_sgx_do_not_run_here(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    cli = CommandLine(capsys, make_site(tmp_path / "sgx", platform="sgx").directory)
    for verb in (["up"], ["status"], ["scale", "2"], ["logs"]):
        error = cli.error(*verb) if verb != ["logs"] else {"code": cli(*verb).err.partition("[")[2].partition("]")[0]}
        assert error["code"] == "target.unsupported", verb
    assert "runs only simulated enclaves" in cli.error("up")["message"]
    assert cli.ok("down") == "Nothing to stop.\n"  # stopping does not need a target that can start


@pytest.mark.parametrize("section", ["service", "broker", "collateral"])
def test_a_taken_port_starts_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, taken: int, section: str
) -> None:
    chosen = {name: ports.find_free() for name in ("service", "broker", "collateral")} | {section: taken}
    site = make_site(
        tmp_path / "site",
        service={"port": chosen["service"]},
        broker={"port": chosen["broker"], "collateral_url": f"http://127.0.0.1:{chosen['collateral']}"},
    )
    error = CommandLine(capsys, site.directory).error("up")
    assert (error["code"], error["status"]) == ("port.taken", 4)
    key = {"collateral": "broker.collateral_url"}.get(section, f"{section}.port")
    assert error["message"].startswith(f"Port {taken} at 127.0.0.1, for ")
    assert f"({key}), is in use by another program" in error["message"]
    assert "ss -ltnp" in error["hint"]
    assert CommandLine(capsys, site.directory)("status", "--json").json["parts"] == []


def test_the_owners_steps_are_done_once(cli: CommandLine, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def up(_self: object, bundle: Bundle, replicas: int) -> tuple[str, ...]:
        calls.append((bundle.folder, len(bundle.enclaves), replicas))
        return ()

    monkeypatch.setattr("sealserve.cluster.local.target.LocalTarget.check", lambda *_, **__: None)
    monkeypatch.setattr("sealserve.cluster.local.target.LocalTarget.up", up)
    cli.ok("up")
    cli.ok("up", "--replicas", "5")
    (release,) = site.workspace.owner.releases.iterdir()
    shipped = site.workspace.host.releases / release.name
    assert calls == [(shipped, 2, 2), (shipped, 5, 5)]
    assert cli.error("up", "--release", "nothing")["code"] == "release.missing"
    assert cli.json("certs", "show")


def test_the_release_that_a_roll_out_replaced_drains(
    cli: CommandLine, ready: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = (ready.build_release().folder for _ in range(2))
    for folder in (old, new):
        ready.build_enclave(folder, name="replica-0", port=8510)
        provisioning.allow(ready.workspace, ready.deployment, folder, now=ready.now)
    monkeypatch.setattr("sealserve.cluster.local.target.LocalTarget.check", lambda *_, **__: None)
    monkeypatch.setattr("sealserve.cluster.local.target.LocalTarget.up", lambda *_: [old.name])
    done = cli("up", "--release", new.name)
    assert done.status == 0
    assert f"{old.name} is draining: restarts and a roll-back get its key until " in done.err
    assert {row["name"]: row["state"] for row in cli.json("broker", "releases")} == {
        old.name: "draining",
        new.name: "active",
    }
    back = cli("up", "--release", old.name)
    assert f"warning: {old.name} is draining: its replicas cannot start after " in back.err
    assert f"To make it active again, run `sealserve broker allow --reactivate {old.name}`." in back.err


def test_a_roll_back_says_which_release_it_makes_active_again(
    cli: CommandLine, ready: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which one that is was the target's word, so it is said where it stays, and to programs' owners, too."""
    folder = ready.build_release().folder
    ready.build_enclave(folder, name="replica-0", port=8510)
    provisioning.allow(ready.workspace, ready.deployment, folder, now=ready.now)
    cli.ok("broker", "drain", folder.name)
    monkeypatch.setattr(local.LocalTarget, "check", lambda *_, **__: None)
    monkeypatch.setattr(local.LocalTarget, "up", lambda *_: [])
    monkeypatch.setattr(local.LocalTarget, "previous_release", lambda _: folder.name)
    done = cli("up", "--rollback", "--json")
    assert (done.status, done.err) == (0, f"{folder.name} was draining, and is active again.\n")
    assert [row["state"] for row in cli.json("broker", "releases")] == ["active"]


def test_logs(cli: CommandLine, site: Site) -> None:
    missing = cli("logs")
    assert missing.status == 2
    assert (
        missing.err
        == "error[logs.unknown-part]: The deployment has no logs yet.\n  Start the deployment with `sealserve up`.\n"
    )
    (site.workspace.owner.logs / "broker.log").write_text("".join(f"line [{n}]\n" for n in range(30)))
    (site.workspace.host.logs / "replica-0.log").write_text("only\nunfinished")
    shown = cli.ok("logs").splitlines()
    assert shown == [f"{NO_TIME} broker      line [{n}]" for n in range(10, 30)] + [
        f"{NO_TIME} replica-0   only",
        f"{NO_TIME} replica-0   unfinished",
    ]
    for option in ("--last", "--tail"):
        assert cli.ok("logs", "broker", option, "1") == f"{NO_TIME} broker line [29]\n"
    assert cli.ok("logs", "broker", "-n", "0") == ""
    for name, line in (("access", '{"bytes": 1}'), ("error", "[notice] hello")):
        (site.workspace.host.logs / f"nginx-{name}.log").write_text(line + "\n")
    assert cli.ok("logs", "nginx").splitlines() == [
        f'{NO_TIME} nginx {{"bytes": 1}}',
        f"{NO_TIME} nginx [notice] hello",
    ]
    assert cli.ok("logs", "nginx-error") == f"{NO_TIME} nginx       [notice] hello\n"
    assert f"{NO_TIME} nginx       [notice] hello" in cli.ok("logs").splitlines()
    unknown = cli("logs", "pcs")
    assert (
        unknown.err == "error[logs.unknown-part]: No log of pcs exists.\n"
        "  Choose a part that has a log: broker, nginx, replica-0.\n"
    )


def test_hostile_lines_do_not_reach_the_terminal(cli: CommandLine, site: Site) -> None:
    log = site.workspace.host.logs / "replica-0.log"
    log.write_bytes(b"2026-01-31T12:00:00.000Z ERROR \x1b[2J\xc2\x9b31m\xe2\x80\xaegpj.exe\r\x00\n")
    assert cli.ok("logs").splitlines() == ["2026-01-31T12:00:00.000Z replica-0   ERROR ?[2J?31m?gpj.exe??"]
    shown = cli.ok("logs", "--json")
    assert shown.isascii()
    assert json.loads(shown) == {
        "time": "2026-01-31T12:00:00.000Z", "part": "replica-0", "instance": "", "level": "ERROR",
        "text": "\x1b[2J\x9b31m\u202egpj.exe\r\x00",
    }  # fmt: skip


def test_logs_since_a_time(cli: CommandLine, site: Site) -> None:
    log = site.workspace.host.logs / "replica-0.log"
    log.write_text("".join(f"2026-01-31T12:00:{second:02}.000Z INFO {second}\n" for second in range(30)))
    shown = cli.ok("logs", "--since", "2026-01-31T12:00:05Z").splitlines()
    assert [line.split()[-1] for line in shown] == [str(second) for second in range(5, 30)]
    assert cli.ok("logs", "--since", "10m") == ""
    assert len(cli.ok("logs", "--since", "2026-01-31", "--tail", "3").splitlines()) == 3
    error = cli.error("logs", "--since", "yesterday")
    assert (error["code"], error["status"]) == ("logs.invalid-since", 2)


def test_status_is_watched_until_it_is_interrupted(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = iter([2.0, 2.0])

    def pause(seconds: float) -> None:
        if next(waits, None) != seconds:
            raise KeyboardInterrupt

    monkeypatch.setattr("sealserve.cli.status.time.sleep", pause)
    result = cli("status", "--watch", "--json")
    assert (result.status, result.err) == (130, "")
    assert [json.loads(line)["state"] for line in result.out.splitlines()] == ["down"] * 3
    waits = iter([2.0])
    assert cli("status", "--watch").out.count("State      down") == 2


def test_logs_are_followed(cli: CommandLine, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    log = site.workspace.host.logs / "replica-0.log"
    log.write_text("before\nhal")
    waits = iter(["", "f\nwhole\n", "end"])

    def pause(_seconds: float) -> None:
        if (text := next(waits, None)) is None:
            raise KeyboardInterrupt
        with log.open("a") as stream:
            stream.write(text)

    monkeypatch.setattr("sealserve.cluster.logs.files.time.sleep", pause)
    result = cli("logs", "--follow")
    assert result.status == 130
    assert result.out.splitlines() == [f"{NO_TIME} replica-0   {text}" for text in ("before", "half", "whole")]


def test_nginx_is_rendered(cli: CommandLine, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    program = NginxProgram(Path("/usr/sbin/nginx"), (1, 22, 1), Path("/usr/lib/nginx/modules/ngx_stream_module.so"))
    monkeypatch.setattr("sealserve.cli.render.find_nginx", lambda: program)
    rendered = cli.ok("render", "nginx", "--replica", "10.0.0.1:8510", "--replica", "[::1]:8511")
    for text in ("server 10.0.0.1:8510", "server [::1]:8511", "ssl_preread on", "grpc.tf-serving.service.com"):
        assert text in rendered
    assert str(site.workspace.host.logs) in rendered


def test_nginx_is_rendered_with_rest(cli: CommandLine, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    program = NginxProgram(Path("/usr/sbin/nginx"), (1, 22, 1), None)
    monkeypatch.setattr("sealserve.cli.render.find_nginx", lambda: program)
    described = site.directory / "sealserve.toml"
    described.write_text(described.read_text().replace("rest = false", "rest = true"))
    rendered = cli.ok("render", "nginx", "--replica", "10.0.0.1:8510", "--replica", "[::1]:8520")
    for text in ("listen 127.0.0.1:8501 ", "server 10.0.0.1:8511 ", "server [::1]:8521 ", "server 10.0.0.1:8510 "):
        assert text in rendered


@pytest.mark.parametrize("address", ["abc", ":8500", "10.0.0.1:", "10.0.0.1:http"])
def test_a_replica_without_an_address(cli: CommandLine, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    program = NginxProgram(Path("/usr/sbin/nginx"), (1, 22, 1), None)
    monkeypatch.setattr("sealserve.cli.render.find_nginx", lambda: program)
    result = cli("render", "nginx", "--replica", address)
    assert result.status == 2
    message = f"The address of a replica is invalid: expected HOST:PORT, got {address!r}."
    assert result.err.startswith(f"error[render.replica]: {message}\n")
