from dataclasses import replace
from pathlib import Path

import pytest
from tests.harness.errors import raises

from sealserve.ingress.codes import IngressCode
from sealserve.ingress.nginx_config import NginxConfig, RestRoute, Upstream, WorkerUser, render

CONFIG = NginxConfig(
    listen="127.0.0.1",
    port=8500,
    service_name="grpc.tf-serving.service.com",
    upstreams=[Upstream("127.0.0.1", 9001), Upstream("::1", 9002), Upstream("replica-2.internal", 9003)],
    run_folder=Path("/srv/run"),
    log_folder=Path("/srv/logs"),
)


def lines(config: NginxConfig) -> list[str]:
    return [line.strip() for line in render(config).splitlines()]


def test_tls_is_passed_through_by_name() -> None:
    text = lines(CONFIG)
    assert "listen 127.0.0.1:8500 so_keepalive=on;" in text
    assert "ssl_preread on;" in text
    assert "grpc.tf-serving.service.com sealserve_replicas;" in text
    assert 'default "";' in text
    assert "proxy_pass $replicas;" in text
    assert not any("ssl_certificate" in line for line in text)


def test_every_address_means_both_ip_families() -> None:
    assert "listen [::]:8500 ipv6only=off so_keepalive=on;" in lines(replace(CONFIG, listen="::"))
    assert "listen [::1]:8500 so_keepalive=on;" in lines(replace(CONFIG, listen="::1"))


def test_the_proxy_protocol_is_an_option() -> None:
    text = render(replace(CONFIG, listen="::", proxy_protocol=True))
    assert "listen [::]:8500 ipv6only=off so_keepalive=on proxy_protocol;" in text
    assert '"client":"$proxy_protocol_addr:$proxy_protocol_port"' in text
    assert "$remote_addr" not in text
    assert "proxy_protocol" not in render(CONFIG)
    assert '"client":"$remote_addr:$remote_port"' in render(CONFIG)


def test_each_replica_is_listed_and_passed_over_when_it_is_down() -> None:
    text = lines(replace(CONFIG, fail_timeout=7, connect_timeout=3))
    for host in ("127.0.0.1:9001", "[::1]:9002", "replica-2.internal:9003"):
        assert f"server {host} max_fails=1 fail_timeout=7s;" in text
    assert "least_conn;" in text
    assert "proxy_connect_timeout 3s;" in text


def test_an_address_with_several_replicas_behind_it_is_never_given_up() -> None:
    text = lines(replace(CONFIG, fail_timeout=0))
    assert "server 127.0.0.1:9001 max_fails=0;" in text
    assert not any("fail_timeout" in line for line in text)


def test_it_stays_in_the_foreground_and_in_its_folders() -> None:
    text = lines(CONFIG)
    assert "daemon off;" in text
    assert 'pid "/srv/run/nginx.pid";' in text
    assert 'error_log "/srv/logs/nginx-error.log" warn;' in text
    assert 'access_log "/srv/logs/nginx-access.log" connection;' in text
    assert "/var/" not in render(CONFIG)
    assert "/etc/" not in render(CONFIG)


def test_settings_that_only_some_machines_need() -> None:
    plain = render(CONFIG)
    assert "load_module" not in plain
    assert "user " not in plain
    assert "worker_processes auto;" in plain
    text = render(
        replace(CONFIG, stream_module=Path("/m/s.so"), user=WorkerUser("www-data", "www-data"), workers=2)
    ).splitlines()
    assert text[0] == 'load_module "/m/s.so";'
    assert "user www-data www-data;" in text
    assert "worker_processes 2;" in text


@pytest.mark.parametrize("name", ["default", "hostnames", "include", "volatile"])
def test_a_name_that_is_an_nginx_keyword_is_escaped(name: str) -> None:
    assert f"\\{name} sealserve_replicas;" in lines(replace(CONFIG, service_name=name))


def test_paths_are_quoted() -> None:
    text = render(replace(CONFIG, run_folder=Path('/a b/c"; }\\d')))
    assert r'pid "/a b/c\"; }\\d/nginx.pid";' in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"service_name": "a; }"}, "'a; }': expected a DNS name"),
        ({"service_name": "a.com\n"}, "expected a DNS name"),
        ({"service_name": "$host"}, "expected a DNS name"),
        ({"service_name": "~^.*$"}, "expected a DNS name"),
        ({"service_name": "*.example.com"}, "expected a DNS name"),
        ({"listen": "localhost"}, "'localhost': expected an IP address"),
        ({"listen": "fe80::1%a;b"}, "expected an IP address"),
        ({"port": 0}, "cannot use port 0"),
        ({"port": 65536}, "cannot use port 65536"),
        ({"upstreams": []}, "without a replica to forward to"),
        ({"upstreams": [Upstream("a b", 1)]}, "'a b': expected a DNS name"),
        ({"upstreams": [Upstream("unix", 1)]}, "cannot use 'unix'"),
        ({"upstreams": [Upstream("1.2.3", 1)]}, "'1.2.3': expected an IP address"),
        ({"upstreams": [Upstream("fe80::1%a;b", 1)]}, "expected an IP address"),
        ({"upstreams": [Upstream("127.0.0.1", 70000)]}, "cannot use port 70000"),
        ({"run_folder": Path("relative")}, "cannot use the path 'relative"),
        ({"log_folder": Path("/a$b")}, r"cannot use the path '/a\$b"),
        ({"log_folder": Path("/a\nb")}, "cannot use the path"),
        ({"user": WorkerUser("a; b", "c")}, "the account 'a; b'"),
        ({"workers": 0}, "cannot use 0"),
        ({"idle_timeout": -1}, "cannot use -1"),
    ],
)
def test_values_with_a_special_meaning_for_nginx_are_rejected(changes: dict[str, object], message: str) -> None:
    with raises(IngressCode.INVALID_VALUE, match=message) as caught:
        render(replace(CONFIG, **changes))  # type: ignore[arg-type]  # each is of its field's type
    assert caught.value.code == "ingress.invalid-value"


REST = RestRoute(port=8501, upstreams=[Upstream("127.0.0.1", 9101), Upstream("replica-2.internal", 9103)])


def test_rest_is_passed_through_by_name_on_a_port_of_its_own() -> None:
    text = lines(replace(CONFIG, listen="::", proxy_protocol=True, rest=REST, idle_timeout=70, fail_timeout=7))
    for port in (8500, 8501):
        assert f"listen [::]:{port} ipv6only=off so_keepalive=on proxy_protocol;" in text
    assert text.count("ssl_preread on;") == text.count('default "";') == text.count("proxy_timeout 70s;") == 2
    begin, end = text.index("upstream sealserve_rest_replicas {"), text.index("proxy_pass $rest_replicas;")
    servers = [line for line in text[begin:end] if line.startswith("server ") and line != "server {"]
    assert servers == [
        f"server {host} max_fails=1 fail_timeout=7s;" for host in ("127.0.0.1:9101", "replica-2.internal:9103")
    ]
    assert "grpc.tf-serving.service.com sealserve_rest_replicas;" in text
    assert not any("http" in line or "ssl_certificate" in line for line in text)


@pytest.mark.parametrize("rest", [None, RestRoute(port=8501, upstreams=[])])
def test_a_port_for_rest_without_replicas_is_closed(rest: RestRoute | None) -> None:
    config = replace(CONFIG, rest=rest)
    assert config.ports == (8500,)
    assert render(config) == render(CONFIG)
    assert "8501" not in render(config)


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        (RestRoute(port=0, upstreams=REST.upstreams), "cannot use port 0"),
        (RestRoute(port=8501, upstreams=[Upstream("a; b", 1)]), "'a; b': expected a DNS name"),
    ],
)
def test_values_for_rest_are_checked_as_well(rest: RestRoute, message: str) -> None:
    with raises(IngressCode.INVALID_VALUE, match=message):
        render(replace(CONFIG, rest=rest))
