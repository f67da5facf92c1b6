import json
from pathlib import Path

import pytest
from tests.harness.errors import raises

from sealserve import deployment, terms
from sealserve.deployment import example
from sealserve.deployment.codes import DeploymentCode

MINIMAL = '[model]\nname = "resnet50"\n'


def test_defaults() -> None:
    parsed = deployment.parse(MINIMAL)
    assert parsed.service.name == "grpc.tf-serving.service.com"
    assert parsed.service.tls is terms.TlsMode.TWO_WAY
    assert parsed.broker.port == 4433
    assert parsed.tcb.preset == "strict"


@pytest.mark.parametrize(
    ("text", "key", "near"),
    [
        ("[model]\nname = 'm'\npaht = 'x'\n", "model.paht", "model.path"),
        (MINIMAL + "[servce]\nport = 1\n", "servce", "service"),
        (MINIMAL + "[service]\ntlss = 'two-way'\n", "service.tlss", "service.tls"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_known_one(text: str, key: str, near: str) -> None:
    with raises(DeploymentCode.UNKNOWN_KEY, match="unknown key") as caught:
        deployment.parse(text)
    assert caught.value.code == "deployment.unknown-key"
    assert repr(key) in caught.value.message
    assert caught.value.hint == f"Did you mean {near!r}?"


def test_an_error_for_a_key_unlike_all_others_lists_the_known_keys() -> None:
    with raises(DeploymentCode.UNKNOWN_KEY, match="Use a key of this table: kind, replicas"):
        deployment.parse(MINIMAL + "[target]\nzzz = 1\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'model' is missing"),
        ("[model]\n", "'model.name' is missing"),
        (MINIMAL + "[service]\nport = 70000\n", "service.port"),
        (MINIMAL + "[service]\nname = 'a.b'\nclient_name = 'a.b'\n", "must differ"),
        (MINIMAL + "[target]\nreplicas = 0\n", "target.replicas"),
        ("[model]\nname = '../evil'\n", "model.name"),
        (
            MINIMAL + "[server]\nrest = true\n[service]\nrest_port = 8500\n",
            "service.rest_port: REST requires its own port, and service.port is also 8500",
        ),
        (
            MINIMAL + "[server]\nrest = true\nkind = 'tensorflow-serving'\n",
            "rest: TensorFlow Serving's binary does not support TLS for the REST API",
        ),
        (MINIMAL + "[server]\nrest = true\nmetrics_port = 8501\n", "replicas already use port 8501 for requests"),
        (MINIMAL + "[server]\nmetrics_port = 8500\n", "replicas already use port 8500 for requests"),
        (MINIMAL + "[service]\nname = 'x;y'\n", "service.name"),
        *(
            (f"{MINIMAL}{line}\n", f"{line.split()[0]} has no effect without optimize")
            for line in (
                "optimize_inputs = 'inputs.npz'",
                "optimize_min_top1 = 0.99",
                "optimize_min_top5 = 0.0",
                "optimize_max_difference = 1.0",
                "optimize_max_relative_difference = 0.0",
            )
        ),
        (MINIMAL + "optimize = 'float32'\noptimize_max_difference = nan\n", "optimize_max_difference"),
        (
            MINIMAL + "optimize = 'float32'\noptimize_max_relative_difference = inf\n",
            "optimize_max_relative_difference",
        ),
        (
            MINIMAL + "[server.traces]\nendpoint = 'collector:4317'\n",
            "server.traces.endpoint: The address of the trace collector is invalid",
        ),
        (MINIMAL + "[server.traces]\nendpoint = 'http://collector'\n", "the endpoint has no TLS"),
        (MINIMAL + "[server.traces]\ndangerous_plaintext = true\n", "is only for an http:// endpoint"),
        (
            MINIMAL + "[server.traces]\nendpoint = 'https://collector'\ndangerous_plaintext = true\n",
            "is only for an http:// endpoint",
        ),
        (
            MINIMAL + "[server]\nkind = 'tensorflow-serving'\ntraces.endpoint = 'https://collector'\n",
            "TensorFlow Serving's binary does not send traces",
        ),
    ],
)
def test_values_that_cannot_be_used(text: str, message: str) -> None:
    with raises(DeploymentCode.INVALID_VALUE) as caught:
        deployment.parse(text)
    assert caught.value.code == "deployment.invalid-value"
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("section", "line", "message"),
    [
        ("service", "port = true", "service.port: expected an integer, got true."),
        ("service", 'port = "8500"', "service.port: expected an integer, got '8500'."),
        ("target", "replicas = 2.0", "target.replicas: expected an integer, got 2.0."),
        ("server", 'threads = "1"', "server.threads: expected an integer, got '1'."),
        ("enclave", "edmm = 1", "enclave.edmm: expected true or false, got 1."),
        ("enclave", 'edmm = "yes"', "enclave.edmm: expected true or false, got 'yes'."),
        ("service", "name = 7", "service.name: expected text in quotation marks, got 7."),
        ("service", "tls = true", "service.tls: expected 'one-way' or 'two-way', got true."),
        ("docker", "subnet = 10", "docker.subnet: "),
        ("images", "tag = 1.0", "images.tag: expected text in quotation marks, got 1.0."),
        ("kubernetes", "tolerate = 'sgx'", "kubernetes.tolerate: expected a list, got 'sgx'."),
        (
            "kubernetes",
            "node_selector = {sgx = true}",
            "kubernetes.node_selector.sgx: expected text in quotation marks",
        ),
        ("kubernetes", "inventory = 1", "kubernetes.inventory: "),
    ],
)
def test_values_are_not_converted_to_other_types(section: str, line: str, message: str) -> None:
    with raises(DeploymentCode.INVALID_VALUE) as caught:
        deployment.parse(f"{MINIMAL}\n[{section}]\n# here\n{line}\n")
    assert caught.value.message.startswith(f"sealserve.toml, line {MINIMAL.count(chr(10)) + 4}: {message}")


def test_dates_are_rejected() -> None:
    with raises(DeploymentCode.INVALID_VALUE, match=r"dates are not supported, got 2026-11-28") as caught:
        deployment.parse(MINIMAL + "[images]\ntag = 2026-11-28\n")
    assert caught.value.hint == "Put the value in quotation marks."


def test_a_misspelt_key_is_reported_before_a_missing_key() -> None:
    with raises(DeploymentCode.UNKNOWN_KEY, match=r"line 2: unknown key 'model.nme'") as caught:
        deployment.parse('[model]\nnme = "m"\n')
    assert caught.value.hint == "Did you mean 'model.name'?"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('[[model]]\nname = "a"\n[[model]]\nname = "b"\nversion = "2"\n', 5),
        ('model = [{name = "a", version = "2"}]\n', 1),
        ('platform = "tdx"\n[model]\nname = "a"\n', 1),
        ('service.port = "x"\n[model]\nname = "a"\n', 1),
        ('[model]\nname = "a"\n[ "service" ]\n"port" = false\n', 4),
    ],
)
def test_the_line_of_a_value(text: str, line: int) -> None:
    with raises(DeploymentCode.INVALID_VALUE, match=f"^sealserve.toml, line {line}: "):
        deployment.parse(text)


@pytest.mark.parametrize("text", ["x = " + "[" * 5000, "x = " + "1" * 5000, "x = 1\nx = 2"])
def test_hostile_toml(text: str) -> None:
    with raises(DeploymentCode.SYNTAX, match="not valid TOML"):
        deployment.parse(text)


def test_invalid_toml_is_rejected() -> None:
    with raises(DeploymentCode.SYNTAX, match="not valid TOML") as caught:
        deployment.parse("model = [")
    assert caught.value.code == "deployment.syntax"


def test_a_missing_file_or_a_file_without_text_is_rejected(tmp_path: Path) -> None:
    with raises(DeploymentCode.MISSING, match="sealserve init") as caught:
        deployment.read(tmp_path / "sealserve.toml")
    assert caught.value.code == "deployment.missing"
    (tmp_path / "sealserve.toml").write_bytes(b"\xff\xfe")
    with raises(DeploymentCode.SYNTAX, match="not UTF-8"):
        deployment.read(tmp_path / "sealserve.toml")


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "sealserve.toml").write_text('[model]\nname = "m"\npath = "models/m.pb"\n')
    assert deployment.read(tmp_path / "sealserve.toml").model.path == tmp_path / "models/m.pb"
    (tmp_path / "own").mkdir()
    (tmp_path / "own/sealserve.toml").write_text('[model]\nname = "m"\npath = "../models/./m.pb"\n')
    assert deployment.read(tmp_path / "own/sealserve.toml").model.path == tmp_path / "models/m.pb"
    (tmp_path / "deep/er").mkdir(parents=True)
    (tmp_path / "own/link").symlink_to(tmp_path / "deep/er")
    (tmp_path / "own/sealserve.toml").write_text('[model]\nname = "m"\npath = "link/../m.pb"\n')
    read = deployment.read(tmp_path / "own/sealserve.toml").model.path
    assert read is not None
    assert read.resolve() == tmp_path / "deep/m.pb"


def test_the_example_says_what_the_defaults_say() -> None:
    parsed = deployment.parse(deployment.write_example({"model": {"name": "resnet50", "path": "resnet50.pb"}}))
    model = deployment.ModelSection(name="resnet50", path=Path("resnet50.pb"))
    assert parsed == deployment.Deployment(model=(model,))


def test_the_example_takes_settings() -> None:
    settings = {"model": {"name": "m"}, "service": {"tls": "one-way"}, "broker": {"port": 9001}}
    parsed = deployment.parse(deployment.write_example(settings, heading="For a test."))
    assert parsed.service.tls is terms.TlsMode.ONE_WAY
    assert parsed.broker.port == 9001
    assert parsed.model.path is None


@pytest.mark.parametrize("target", terms.TargetKind)
def test_the_short_file_has_the_keys_that_users_often_change(target: terms.TargetKind) -> None:
    settings = {"model": {"name": "m", "path": "m.pb"}, "target": {"kind": target}, "platform": "sgx"}
    lines = deployment.write_short(settings).splitlines()
    table, written = "", set()
    for line in lines:
        if line.startswith("["):
            table = line.partition("]")[0].removeprefix("[") + "."
        elif " = " in line:
            written.add(table + line.removeprefix("# ").partition(" = ")[0])
    assert written == {*example._ALWAYS, *example._FROZEN_GRAPH, *example._SGX, *example._BY_TARGET[target]}


def test_the_short_file_has_every_setting_that_was_chosen() -> None:
    settings = {"model": {"name": "m"}, "keystore": {"transit_mount": "here"}, "kubernetes": {"dns": {"port": 5353}}}
    parsed = deployment.parse(deployment.write_short(settings))
    assert (parsed.keystore.transit_mount, parsed.kubernetes.dns.port) == ("here", 5353)
    with raises(DeploymentCode.UNKNOWN_KEY, match="transit_muont"):
        deployment.parse(deployment.write_short({"model": {"name": "m"}, "keystore": {"transit_muont": "x"}}))


SEVERAL = """
[[model]]
name = "resnet50"
path = "a.pb"
labels = ["stable"]
[[model]]
name = "resnet50"
version = 2
path = "/b.pb"
labels = ["canary", "newest"]
[[model]]
name = "bert"
dangerous_operations = ["Print"]
"""


def test_several_models_and_versions(tmp_path: Path) -> None:
    (tmp_path / "sealserve.toml").write_text(SEVERAL + '[server]\nbatching_parameters_file = "batching.config"\n')
    parsed = deployment.read(tmp_path / "sealserve.toml")
    assert [(model.name, model.version) for model in parsed.models] == [("resnet50", 1), ("resnet50", 2), ("bert", 1)]
    assert [model.path for model in parsed.models] == [tmp_path / "a.pb", Path("/b.pb"), None]
    assert parsed.model is parsed.models[0]
    assert parsed.server.batching_parameters_file == tmp_path / "batching.config"
    assert parsed.server.monitoring_config_file is None
    models = [{"name": "resnet50"}, {"name": "resnet50", "version": 2, "labels": ("canary",)}]
    example = deployment.parse(deployment.write_example({"model": models}))
    assert [(model.version, model.labels) for model in example.models] == [(1, ()), (2, ("canary",))]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[model]]\nname = "a"\n[[model]]\nname = "a"\n', "'a' has the version 1 twice."),
        (SEVERAL.replace("newest", "stable"), "'resnet50' has the label 'stable' twice."),
        ("model = []\n", "model: expected a list of at least 1 item, got []"),
        ("model = 3\n", "model: expected a list, got 3."),
        (
            '[[model]]\nname = "a"\nversion = -1\n',
            "model.version: expected a number of at least 0, got -1",
        ),
        (
            f'[[model]]\nname = "a"\nversion = {2**63}\n',
            f"model.version: expected a number of at most {2**63 - 1}, got {2**63}",
        ),
    ],
)
def test_models_that_do_not_fit_together(text: str, message: str) -> None:
    with raises(DeploymentCode.INVALID_VALUE) as caught:
        deployment.parse(text)
    assert message in caught.value.message


def test_an_unknown_key_of_one_of_several_models() -> None:
    with raises(DeploymentCode.UNKNOWN_KEY, match=r"unknown key 'model\.versoin'.*Did you mean 'model.version'"):
        deployment.parse(SEVERAL + "versoin = 3\n")


@pytest.mark.parametrize("address", ["", "a b", "broker;evil:4433", "https://broker", "broker/", "-broker"])
def test_a_broker_has_a_name_or_an_address(address: str) -> None:
    with raises(DeploymentCode.INVALID_VALUE, match=r"broker\.address"):
        deployment.parse(f'[model]\nname = "m"\n[broker]\naddress = {json.dumps(address)}\n')


@pytest.mark.parametrize("version", [0, 1, 20261128, 1764322215123, 2**31, 2**63 - 1])
def test_a_version_is_any_64_bit_number_that_is_not_negative(version: int) -> None:
    assert deployment.parse(f'[model]\nname = "m"\nversion = {version}\n').model.version == version


@pytest.mark.parametrize("address", ["2001:db8::7", "::1", "[2001:db8::7]", "broker:4433"])
def test_a_broker_address_with_a_colon_is_refused_because_gramine_cannot_read_it(address: str) -> None:
    with raises(DeploymentCode.INVALID_VALUE, match=r"broker\.address: .*DNS name \(with an AAAA record"):
        deployment.parse(f'[model]\nname = "m"\n[broker]\naddress = {json.dumps(address)}\n')


@pytest.mark.parametrize(("section", "key"), [("service", "listen"), ("kubernetes", "broker_ip")])
@pytest.mark.parametrize("address", ["10.0.0.5/32", "broker.example.com", "10.0.0", "fe80::1%eth0", "1.2.3.4 "])
def test_what_must_be_an_ip_address(section: str, key: str, address: str) -> None:
    with raises(DeploymentCode.INVALID_VALUE, match=rf"{section}\.{key}: .*IP address"):
        deployment.parse(f'[model]\nname = "m"\n[{section}]\n{key} = {json.dumps(address)}\n')


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('ip_families = ["IPv4", "IPv4"]', "expected each IP family at most once"),
        ('ip_families = ["IPv5"]', "'IPv4' or 'IPv6'"),
        ("dns_labels = {}", "pods could reach every pod of kubernetes.dns.namespace"),
        ('dns_addresses = ["node-local"]', "dns_addresses"),
        ('run_as_user = "root"', "run_as_user"),
        ("run_as_user = 0", "run_as_user"),
    ],
)
def test_settings_of_a_cluster_that_are_refused(line: str, message: str) -> None:
    with raises(DeploymentCode.INVALID_VALUE) as caught:
        deployment.parse(f'[model]\nname = "m"\n[kubernetes]\n{line}\n')
    assert message in str(caught.value)


@pytest.mark.parametrize("address", ["broker.example.com", "192.0.2.7", "b"])
def test_names_and_addresses_of_a_broker(address: str) -> None:
    assert deployment.parse(f'[model]\nname = "m"\n[broker]\naddress = "{address}"\n').broker.address == address


@pytest.mark.parametrize(("size", "expected"), [("auto", None), ("512M", 2**29), ("8G", 2**33)])
def test_an_enclaves_size_is_a_power_of_two_or_left_to_the_rule(size: str, expected: int | None) -> None:
    text = deployment.write_example({"model": {"name": "m"}, "enclave": {"size": size, "edmm": True, "isv_svn": 3}})
    enclave = deployment.parse(text).enclave
    assert (enclave.size_in_bytes, enclave.edmm, enclave.isv_svn) == (expected, True, 3)


@pytest.mark.parametrize("size", ["3G", "8", "8T", "0M", "-1G", "8g", ""])
def test_invalid_enclave_sizes_are_rejected(size: str) -> None:
    with raises(DeploymentCode.INVALID_VALUE, match=r"enclave.*size"):
        deployment.parse(deployment.write_example({"model": {"name": "m"}, "enclave": {"size": size}}))


def test_a_key_management_service_is_described_whole(tmp_path: Path) -> None:
    keystore = '[keystore]\nkind = "transit"\ntransit_url = "https://vault:8200"\ntransit_token_file = "token"\n'
    (tmp_path / "sealserve.toml").write_text(MINIMAL + keystore)
    assert deployment.read(tmp_path / "sealserve.toml").keystore.transit_token_file == tmp_path / "token"
    for text in ('kind = "transit"', 'transit_url = "https://vault:8200"'):
        with raises(DeploymentCode.INVALID_VALUE, match="transit' requires transit_url and transit_token_file"):
            deployment.parse(f"{MINIMAL}[keystore]\n{text}\n")


def test_a_pkcs11_token_is_described_whole(tmp_path: Path) -> None:
    settings = ['pkcs11_module = "module.so"', 'pkcs11_token = "owner"', 'pkcs11_pin_file = "pin"']
    (tmp_path / "sealserve.toml").write_text("\n".join([MINIMAL, "[keystore]", 'kind = "pkcs11"', *settings]))
    keystore = deployment.read(tmp_path / "sealserve.toml").keystore
    assert (keystore.pkcs11_module, keystore.pkcs11_key) == (tmp_path / "module.so", "sealserve")
    for lines in (['kind = "pkcs11"'], settings[:1], settings[:2], ['kind = "pkcs11"', *settings[1:]]):
        with raises(
            DeploymentCode.INVALID_VALUE, match="pkcs11' requires pkcs11_module, pkcs11_token and pkcs11_pin_f"
        ):
            deployment.parse("\n".join([MINIMAL, "[keystore]", *lines]))


def test_metrics_of_tensorflow_servings_binary_would_have_no_tls() -> None:
    text = '[model]\nname = "m"\n[server]\nkind = "tensorflow-serving"\nmetrics_port = 9464\n'
    with raises(DeploymentCode.INVALID_VALUE, match="does not support TLS for metrics"):
        deployment.parse(text)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("resnet50/1", "resnet50"),
        ("resnet50/00000123", "resnet50"),
        ("models/flowers", "flowers"),
        ("m/v1", "v1"),
        ("1.pb", "1"),
        ("a b/7", "a-b"),
        ("/1", "1"),
    ],
)
def test_a_folder_that_is_named_like_a_version_has_its_parents_name(path: str, name: str) -> None:
    assert deployment.suggest_name(Path(path)) == name


@pytest.mark.parametrize(
    ("server", "attested"),
    [
        ("", True),
        ("dangerous_owner_tls_key = true", False),
        ('kind = "tensorflow-serving"', False),  # its binary cannot create a TLS key
    ],
)
def test_the_embedded_server_is_attested_unless_the_owner_wants_the_tls_key(server: str, attested: bool) -> None:
    assert deployment.parse(f'[model]\nname = "m"\n[server]\n{server}\n').server.attested is attested
