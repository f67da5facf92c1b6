from pathlib import Path

import pytest
from tests.harness.errors import raises

from sealserve.ingress import nginx_program
from sealserve.ingress.codes import IngressCode
from sealserve.ingress.nginx_config import NginxConfig, Upstream
from sealserve.ingress.nginx_program import NginxProgram, describe_build, find_nginx, last_message

NGINX = Path("/usr/sbin/nginx")
BUILD = "nginx version: nginx/{version}\nconfigure arguments: --with-cc-opt='-g -O2' {options}\n"


def build(version: str = "1.22.1", options: str = "--with-stream --with-stream_ssl_preread_module") -> str:
    return BUILD.format(version=version, options=options)


@pytest.fixture
def config(tmp_path: Path) -> NginxConfig:
    return NginxConfig(
        listen="127.0.0.1",
        port=8500,
        service_name="a.example.com",
        upstreams=[Upstream("127.0.0.1", 1)],
        run_folder=tmp_path,
        log_folder=tmp_path,
    )


def test_a_build_with_its_modules_inside() -> None:
    assert describe_build(NGINX, build("1.26.2 (Ubuntu)")) == NginxProgram(NGINX, (1, 26, 2), None)


def test_a_distributions_build_has_the_module_apart(tmp_path: Path) -> None:
    (tmp_path / "ngx_stream_module.so").touch()
    options = f"--modules-path={tmp_path} --with-stream=dynamic --with-stream_ssl_preread_module"
    assert describe_build(NGINX, build(options=options)).stream_module == tmp_path / "ngx_stream_module.so"


def test_a_module_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nginx_program, "_MODULE_FOLDERS", (str(tmp_path / "other"),))
    options = f"--modules-path={tmp_path} --with-stream=dynamic --with-stream_ssl_preread_module"
    with raises(IngressCode.STREAM_MODULE_MISSING, match=r"lacks NGINX's stream module.*libnginx-mod-stream") as caught:
        describe_build(NGINX, build(options=options))
    assert caught.value.code == "ingress.stream-module-missing"


def test_a_build_without_stream() -> None:
    with raises(IngressCode.STREAM_MODULE_MISSING, match="built without its stream"):
        describe_build(NGINX, build(options="--with-http_ssl_module"))


@pytest.mark.parametrize(
    ("text", "message"), [(build("1.17.10"), "expected NGINX 1.18 or later, got 1.17.10"), ("hello", "is not NGINX")]
)
def test_a_build_that_cannot_be_used(text: str, message: str) -> None:
    with raises(IngressCode.NGINX_MISSING, match=message):
        describe_build(NGINX, text)


def test_a_machine_without_nginx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(nginx_program, "_SYSTEM_FOLDERS", ())
    with raises(IngressCode.NGINX_MISSING, match="apt-get install nginx libnginx-mod-stream") as caught:
        find_nginx()
    assert caught.value.code == "ingress.nginx-missing"
    assert caught.value.exit_status == 4


def test_nginx_is_found_and_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nginx"
    program.write_text(f"#!/bin/sh\ncat >&2 <<END\n{build('1.24.0')}END\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert find_nginx() == NginxProgram(program, (1, 24, 0), None)


def test_the_built_in_error_log_is_not_opened_if_nginx_supports_that(config: NginxConfig) -> None:
    new = NginxProgram(NGINX, (1, 19, 5), None).command(config)
    old = NginxProgram(NGINX, (1, 18, 0), None).command(config)
    assert new == [*old, "-e", str(config.error_log)]
    assert old == [str(NGINX), "-p", str(config.run_folder), "-c", str(config.config_file)]


def test_nginxs_reason_for_rejecting_a_configuration_is_shown(tmp_path: Path, config: NginxConfig) -> None:
    program = tmp_path / "nginx"
    program.write_text('#!/bin/sh\necho "nginx: [emerg] host not found in upstream \\"x:1\\"" >&2\nexit 1\n')
    program.chmod(0o755)
    with raises(
        IngressCode.CONFIG_REFUSED, match='rejects its configuration: host not found in upstream "x:1"'
    ) as caught:
        NginxProgram(program, (1, 22, 1), None).check(config)
    assert caught.value.code == "ingress.config-refused"


def test_the_most_important_message_is_shown() -> None:
    log = "2026/11/23 18:00:00 [emerg] 7#7: bind() failed\n2026/11/23 18:00:01 [notice] 7#7: exit\n"
    assert last_message(log) == "7#7: bind() failed"
    assert last_message("a\nb\n") == "b"
    assert last_message("") == "it printed no reason."
