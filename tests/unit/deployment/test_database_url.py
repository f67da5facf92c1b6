import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.harness.errors import raises

from sealserve import deployment
from sealserve.deployment.codes import DeploymentCode
from sealserve.deployment.database_url import parse_database_url

MINIMAL = '[model]\nname = "m"\n'


def test_a_url_has_its_parts() -> None:
    url = parse_database_url("postgresql://broker@db.example.com:6432/keys?sslcert=/c.pem&sslkey=/k.pem")
    assert (url.user, url.hosts, url.ports, url.database) == ("broker", ("db.example.com",), ("6432",), "keys")
    assert url.parameters == {"sslcert": "/c.pem", "sslkey": "/k.pem"}
    assert str(url) == "postgresql://broker@db.example.com:6432/keys"
    several = parse_database_url("postgresql://b%40x@one,[2001:db8::7]:5433/a%20b")
    assert (several.user, several.hosts, several.ports) == ("b@x", ("one", "2001:db8::7"), ("", "5433"))
    assert (several.database, str(several)) == ("a b", "postgresql://b@x@one,[2001:db8::7]:5433/a b")


@pytest.mark.parametrize(
    ("place", "local"),
    [
        ("@/n?host=/run/postgresql", True), ("@%2Frun%2Fpostgresql/n", True), ("@127.0.0.1/n", True),
        ("@[::1]/n", True),
        ("@localhost:5/n", True), ("@localhost,db/n", False), ("@127.example.com/n", False), ("@192.0.2.7/n", False),
        ("@localhost.example.com/n", False), ("@0.0.0.0/n", False),
    ],
)  # fmt: skip
def test_only_this_machine_needs_no_certificate(place: str, *, local: bool) -> None:
    url = parse_database_url(f"postgresql://u{place}")
    assert (url.is_local, url.is_verified) == (local, not local)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sqlite:///x", "expected postgresql://USER@HOST/NAME"),
        ("postgresql+psycopg://u@h/n", "expected postgresql://USER@HOST/NAME"),
        ("postgresql://u:s3cret@h/n", "a password in the URL is not accepted: use database.password_file"),
        ("postgresql://u:@h/n", "a password in the URL"),
        ("postgresql://u@h/n?password=s3cret", "the parameter 'password' is not accepted"),
        ("postgresql://u@h/n?options=-csynchronous_commit=off", "the parameter 'options' is not accepted"),
        ("postgresql://u@h/n?sslrootcert=/x", "the parameter 'sslrootcert' is not accepted"),
        ("postgresql://u@h/n?hostaddr=192.0.2.1", "the parameter 'hostaddr' is not accepted"),
        ("postgresql://u@h/n?service=x", "the parameter 'service' is not accepted"),
        ("postgresql://u@h/n?sslmode=verify-full&sslmode=disable", "occurs twice"),
        ("postgresql://h/n", "the user or the name of the database is missing"),
        ("postgresql://u@h", "the user or the name of the database is missing"),
        ("postgresql://u@/n", "expected a host"),
        ("postgresql://u@h,/n", "expected a host"),
        ("postgresql://u@h/n?host=/run", "expected one host"),
        ("postgresql://u@h/n?port=5", "expected the port after the host"),
        ("postgresql://u@h:x/n", "expected HOST or HOST:PORT"),
        ("postgresql://u@::1/n", "expected HOST or HOST:PORT"),
        ("postgresql://u@h:0/n", "expected a port from 1 to 65535"),
        ("postgresql://u@h,g:65536/n", "expected a port from 1 to 65535"),
        ("postgresql://u@/n?host=/run&port=99999", "expected a port from 1 to 65535"),
        ("postgresql://u@/n?host=/run&port=x", "expected a port from 1 to 65535"),
        ("postgresql://u@h/n#f", "expected postgresql://"),
        ("postgresql://u@h/n\n", "expected postgresql://"),
        ("postgresql://u@h/n?host", "bad query field"),
    ],
)
def test_another_url_is_an_error_without_its_password(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse_database_url(text)
    assert "s3cret" not in str(caught.value)


@given(st.text(max_size=60))
def test_any_text_is_a_url_or_a_value_error(text: str) -> None:
    for candidate in (text, f"postgresql://{text}", f"postgresql://u@h/n?{text}"):
        try:
            url = parse_database_url(candidate)
        except ValueError:
            continue
        assert url.user
        assert url.database
        assert all(url.hosts)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('url = "postgresql://u@db/n"', "expected database.ca_file too"),
        ('url = "postgresql://u@db/n?sslmode=require"\nca_file = "ca.pem"', "expected sslmode=verify-full"),
        ('url = "postgresql://u@db/n?sslmode=verify-ca"\nca_file = "ca.pem"', "expected sslmode=verify-full"),
        ('url = "postgresql://u:s3cret@db/n"', "a password in the URL is not accepted"),
        ('password_file = "p"', "expected only together with database.url"),
        ('ca_file = "p"', "expected only together with database.url"),
    ],
)
def test_settings_that_do_not_verify_the_server_are_rejected(text: str, message: str) -> None:
    with raises(DeploymentCode.INVALID_VALUE, match=message):
        deployment.parse(f"{MINIMAL}[database]\n{text}\n")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:s3cret@db/n",
        "postgresql://u:s3cret@x/y@db/n",
        "mysql://u:s3cret@db/n",
        "postgresql://u@db/n?password=s3cret",
        "postgresql://u@db/n?a=s3cret&host=b",
    ],
)
def test_an_error_does_not_print_a_password(url: str) -> None:
    with raises(DeploymentCode.INVALID_VALUE, match="got '") as caught:
        deployment.parse(f'{MINIMAL}[database]\nurl = "{url}"\n')
    assert "s3cret" not in f"{caught.value}{caught.value.hint}"


def test_a_server_on_this_machine_or_a_dangerous_setting_needs_no_certificate() -> None:
    for text in (
        'url = "postgresql://u@/n?host=/run/postgresql"',
        'url = "postgresql://u@127.0.0.1/n"',
        'url = "postgresql://u@db/n?sslmode=require"\ndangerous_unverified_server = true',
        'url = "postgresql://u@db/n"\nca_file = "ca.pem"',
    ):
        assert deployment.parse(f"{MINIMAL}[database]\n{text}\n").database.url is not None
    assert deployment.parse(MINIMAL).database.parsed is None
