"""Write the reference pages in docs/reference/ from the code that they describe, or check them.

The pages are the command line (Typer), ``sealserve.toml`` (pydantic), the Python client (docstrings), the metrics and
the JSON documents. The texts come from the source. To change a page, change the source and run `make reference`.
"""

import enum
import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from pydantic_core import PydanticUndefined
from scripts.generated_files import write_or_check
from typer.main import get_command

from sealserve import client
from sealserve.broker import metrics as broker_metrics
from sealserve.broker.stage_times import Stage
from sealserve.cli.application import app
from sealserve.deployment.section import Section, fields_of, section_of
from sealserve.deployment.whole import Deployment
from sealserve.serving.metrics import Counter, Gauge, Histogram, Metrics

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "reference"
WRITTEN: Final = "<!-- Written by scripts/reference.py from {source}. Change the source, then run `make reference`. -->"
_EXTRA: Final = re.compile(
    r"^(?P<text>.*?)\s*\[(?P<extra>(?:default: |env var: |required|x[<>]|-?[\d.]+<).*)\]$", re.DOTALL
)


def render(name: str) -> str:
    """Return a page."""
    text = "\n".join(PAGES[name]())
    text = re.sub(r"(```python\n)\n+", r"\1", re.sub(r"\n{2,}(```\n)", r"\n\1", text))
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


# The command line


def _command_line() -> Iterator[str]:
    yield from (
        "# Command line",
        "",
        WRITTEN.format(source="the commands in src/sealserve/cli"),
        "",
        "This page lists every command with its arguments and options. `sealserve COMMAND --help` prints the same. The",
        "[exit statuses and errors](errors.md) have their own page. Commands that accept `--json` print one JSON",
        "document for programs on standard output.",
        "",
    )
    root: Any = get_command(app)
    context = root.make_context("sealserve", [], resilient_parsing=True)
    verbs = [root.get_command(context, name) for name in root.list_commands(context)]
    for panel in dict.fromkeys(verb.rich_help_panel for verb in verbs):
        yield from (f"**{panel}**:", "")
        for verb in verbs:
            if verb.rich_help_panel == panel:
                summary = (_plain(verb.help) or "").partition("\n\n")[0]
                yield f"- [`sealserve {verb.name}`](#{_slug(f'sealserve {verb.name}')}): {summary}"
        yield ""
    yield from ("The program itself has these options:", "", *_options(root, context))
    for verb in verbs:
        yield from _command(verb, type(context)(verb, info_name=verb.name, parent=context))


def _command(command: Any, context: Any) -> Iterator[str]:
    """Yield the section of a command, then the sections of its subcommands."""
    path = context.command_path
    yield from ("", f"{'#' * min(len(path.split()), 4)} `{path}`", "", _plain(command.help) or "", "")
    inner = {name: found for name, found in getattr(command, "commands", {}).items() if not found.hidden}
    if not inner or command.invoke_without_command:
        pieces = " ".join([path, *command.collect_usage_pieces(context)])
        yield from ("```text", pieces, "```", "", *_options(command, context))
    for name, found in inner.items():
        yield from _command(found, type(context)(found, info_name=name, parent=context))


def _options(command: Any, context: Any) -> Iterator[str]:
    rows = []
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is None or "--help" in parameter.opts or "--install-completion" in parameter.opts:
            continue
        name, text = record[0], _plain(record[1])
        extra = ""
        if (found := _EXTRA.match(text)) is not None:
            text, extra = found["text"], found["extra"]
        facts = [_fact(fact) for fact in re.split(r"; (?![^(]*\))", extra) if fact and fact != "required"]
        if parameter.required:
            facts = ["*required*"]
        rows.append(f"| `{_cell(name)}` | {_cell(text)} | {_cell('; '.join(facts))} |")
    if rows:
        yield from ("| Option | Meaning | Default and limits |", "|---|---|---|", *rows, "")


def _fact(fact: str) -> str:
    """Return a default, a limit or an environment variable, as a help record shows it, for people."""
    if (
        limits := re.fullmatch(r"(?:(?P<least>[-\d.]+)<=)?x(?:(?P<sign><=|>=|<|>)(?P<bound>[-\d.]+))?", fact)
    ) is not None:
        if limits["least"] is not None:
            return f"{limits['least']} to {limits['bound']}"
        return f"{'at least' if limits['sign'] == '>=' else limits['sign']} {limits['bound']}"
    if fact.startswith("env var: "):
        return f"the environment variable `{fact.removeprefix('env var: ')}`, if it is set"
    value = fact.removeprefix("default: ").strip()
    return value[1:-1] if value.startswith("(") and value.endswith(")") else f"`{value}`"


def _plain(text: str | None) -> str:
    """Return a help text without the escapes of Rich's markup."""
    return (text or "").replace("\\[", "[").strip()


# sealserve.toml


def _toml_page() -> Iterator[str]:
    yield from (
        "# sealserve.toml",
        "",
        WRITTEN.format(source="the sections in src/sealserve/deployment"),
        "",
        "`sealserve.toml` describes a deployment. `sealserve init` writes a short file, and `sealserve init --full`",
        "writes every key with its default and a comment. Only `model.name` is required. An unknown key",
        "is an error that names the line. After a change, run `sealserve up`.",
        "",
        "A key that is marked as measured is part of the enclave's measurement. A change to it needs a new",
        "release.",
        "",
    )
    schema = Deployment.model_json_schema(mode="validation")
    top = {name: field for name, field in fields_of(Deployment).items() if section_of(field) is None}
    yield from ("## Top level", "", *_keys(top, schema, schema), "")
    for name, field in fields_of(Deployment).items():
        if (section := section_of(field)) is not None:
            yield from _section(section, name, schema)


def _section(section: type[Section], path: str, schema: Mapping[str, Any]) -> Iterator[str]:
    heading = "`[model]` or `[[model]]`" if path == "model" else f"`[{path}]`"
    yield from ("", f"## {heading}", "", inspect.cleandoc(section.__doc__ or ""), "")
    fields = fields_of(section)
    yield from _keys(
        {n: f for n, f in fields.items() if section_of(f) is None}, schema["$defs"][section.__name__], schema
    )
    for name, field in fields.items():
        if (inner := section_of(field)) is not None:
            yield from _section(inner, f"{path}.{name}", schema)


def _keys(fields: Mapping[str, Any], section: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[str]:
    if not fields:
        return
    yield from ("| Key | Type | Default | Meaning |", "|---|---|---|---|")
    for name, field in fields.items():
        kind = _type(section["properties"][name], schema)
        default = field.get_default(call_default_factory=True)
        if field.is_required() or default is PydanticUndefined:
            shown = "*required*"
        else:
            shown = "not set" if default is None else f"`{_value(default)}`"
        yield f"| `{name}` | {_cell(kind)} | {_cell(shown)} | {_cell(field.description or '')} |"


def _type(item: Mapping[str, Any], schema: Mapping[str, Any]) -> str:  # noqa: PLR0911  # one for each kind
    """Return the type of a key, with its limits, for people."""
    if (reference := item.get("$ref")) is not None:
        item = schema["$defs"][reference.rpartition("/")[2]]
    if (choices := item.get("anyOf")) is not None:
        return " or ".join(dict.fromkeys(_type(choice, schema) for choice in choices if choice.get("type") != "null"))
    if (values := item.get("enum")) is not None:
        return " or ".join(f"`{_value(value)}`" for value in values)
    if "const" in item:
        return f"`{_value(item['const'])}`"
    match item.get("type"):
        case "integer":
            return _limited("integer", item)
        case "number":
            return _limited("number", item)
        case "array":
            return f"list of {_plural(_type(item['items'], schema))}" if "items" in item else "list"
        case "object":
            return "table of strings"
        case None:  # a value that pydantic parses from text, such as a network
            return "string"
        case kind:
            return str(kind)


def _limited(kind: str, item: Mapping[str, Any]) -> str:
    least = item.get("minimum", item.get("exclusiveMinimum"))
    most = item.get("maximum", item.get("exclusiveMaximum"))
    if least is not None and most is not None:
        return f"{kind} from {least} to {most}"
    return kind if least is None else f"{kind}, at least {least}"


def _plural(kind: str) -> str:
    return {"string": "strings", "integer": "integers"}.get(kind, kind)


def _value(value: object) -> str:
    """Return a value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float) and not isinstance(value, enum.Enum):
        return str(value)
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_value(item)}" for key, item in value.items()) + "}"
    return json.dumps(str(value), ensure_ascii=False)


# The Python client


def _client_page() -> Iterator[str]:
    yield from ("# Python client", "", WRITTEN.format(source="src/sealserve/client"), "", *_prose(client.__doc__), "")
    names = {name: getattr(client, name) for name in client.__all__}
    errors = {n for n, found in names.items() if isinstance(found, type) and issubclass(found, Exception)}
    classes = [n for n, found in names.items() if isinstance(found, type) and n not in errors]
    first = ["Client", "Predictor"]
    for title, members in (
        ("Classes", [*first, *(n for n in classes if n not in first)]),
        ("Functions", [n for n, found in names.items() if inspect.isfunction(found)]),
        ("Errors", sorted(errors)),
    ):
        yield from (f"## {title}", "")
        for name in members:
            found = names[name]
            yield from _class(name, found) if isinstance(found, type) else _function(name, found, heading="###")


def _class(name: str, found: type) -> Iterator[str]:
    yield from (f"### `{name}`", "")
    if issubclass(found, enum.Enum):
        yield from (*_prose(found.__doc__), "", *(f"- `{name}.{member.name}`" for member in found), "")
        return
    if not issubclass(found, Exception):
        signature = _signature(found).removesuffix(" -> None")
        yield from ("```python", f"class {name}{signature}", "```", "")
    yield from (*_prose(found.__doc__), "")
    if issubclass(found, Exception):
        if "code" in vars(found):
            yield from (f"Code: `{vars(found)['code']}`. See [errors](errors.md).", "")
        return
    for attribute, member in vars(found).items():
        if attribute.startswith("_"):
            continue
        raw = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        if isinstance(member, property):
            yield from (f"#### `{name}.{attribute}`", "", *_prose(member.__doc__), "")
        elif inspect.isfunction(raw):
            yield from _function(f"{name}.{attribute}", raw, heading="####")


def _function(name: str, found: Callable[..., Any], *, heading: str) -> Iterator[str]:
    yield from (f"{heading} `{name}`", "", "```python", f"{name}{_signature(found)}", "```", "")
    yield from (*_prose(found.__doc__), "")


def _signature(found: Callable[..., Any]) -> str:
    """Return a signature, with one parameter on each line where it is long."""
    signature = inspect.signature(found)
    kept = [parameter for name, parameter in signature.parameters.items() if name not in {"self", "cls"}]
    shown = str(signature.replace(parameters=kept))
    shown = re.sub(r"\b(?:[a-z_]+\.)+(?=[A-Z])|\b(?:numpy|collections\.abc|pathlib|datetime|typing)\.", "", shown)
    shown = re.sub(r"<(\w+)\.(\w+): [^>]*>", r"\1.\2", shown).replace("ndarray[tuple[Any, ...], dtype[Any]]", "NDArray")
    shown = re.sub(r"(?<=: |> )'([^']*)'", r"\1", shown)  # annotations that the source quotes
    if len(shown) <= 80 or not kept:  # noqa: PLR2004
        return shown
    parts = re.split(r", (?=\*?\w+:|\*,|/,|\*\w)", shown[1 : shown.rindex(")")])
    return "(\n" + "".join(f"    {part},\n" for part in parts) + shown[shown.rindex(")") :]


_SECTION: Final = re.compile(r"^(Args|Attributes|Returns|Raises|Yields|Example|Examples):$")
_ENTRY: Final = re.compile(r"^    (?P<name>\*{0,2}[\w.]+(?:, \*{0,2}[\w.]+)*)(?: \([^)]*\))?:\s+(?P<text>.*)$")


def _prose(docstring: str | None) -> Iterator[str]:
    """Yield a docstring in Google style as Markdown."""
    section = ""
    in_code = False
    for line in inspect.cleandoc(docstring or "").splitlines():
        if in_code and line.strip() and len(line) - len(line.lstrip()) < 8:  # noqa: PLR2004
            yield from ("```", "")
            in_code = False
        if in_code:
            yield line[8:]
        elif heading := _SECTION.match(line):
            section = heading[1]
            yield from ("", f"**{'Arguments' if section == 'Args' else section}**", "")
        elif section in {"Args", "Attributes", "Raises"} and (entry := _ENTRY.match(line)):
            yield f"- `{entry['name']}`: {_markdown(entry['text'])}"
        elif section.startswith("Example") and line.rstrip().endswith("::"):
            yield from (_markdown(line.strip())[:-1], "", "```python")
            in_code = True
        elif section in {"Args", "Attributes", "Raises"} and line.startswith("        "):
            yield f"  {_markdown(line.strip())}"
        else:
            if line and not line.startswith(" "):
                section = ""
            yield _markdown(line.strip())
    if in_code:
        yield "```"


def _markdown(line: str) -> str:
    return re.sub(r"``([^`]+)``", r"`\1`", line).replace("<", "&lt;") if "`" not in line else line.replace("``", "`")


# Metrics

MEANINGS: Final = {
    "request_count": "Requests that were answered, with the gRPC status.",
    "request_latency": "Time of a successful request, in microseconds.",
    "runtime_latency": "Time that TensorFlow needed for a request, in microseconds.",
    "request_example_counts": "Examples in a request.",
    "request_example_count_total": "Examples in all requests.",
    "queuing_latency": "Time that a request waited for its batch, in microseconds.",
    "wrapped_run_count": "Batches that were run.",
    "input_batch_size": "Rows of a request that was batched.",
    "processed_batch_size": "Rows of a batch, including padding.",
    "padding_size": "Rows that were added to a batch.",
    "model_warmup_latency": "Time of a warm-up, in microseconds.",
    "model_warmup_records_read": "Records that were read for a warm-up.",
    "load_attempt_count": "Attempts to load a version of a model.",
    "load_latency": "Time of all attempts to load a version, in microseconds.",
    "failed_renewals_total": "Attempts to renew the certificate of an attested server that failed.",
    "spans_total": "Spans of traces: `exported`, or `dropped`: the queue was full, or the collector refused them.",
    "untraced_requests_total": "Requests that were not traced because of `server.traces.per_second`.",
    "certificate_expiry_timestamp_seconds": "When the server's TLS certificate expires, in seconds since 1970.",
}
"""The metrics of the model server, by the end of their names. TensorFlow Serving's page has no texts of them."""


def _metrics_page() -> Iterator[str]:
    yield from (
        "# Metrics",
        "",
        WRITTEN.format(source="src/sealserve/serving/metrics.py, src/sealserve/broker/metrics.py and stage_times.py"),
        "",
        "Both pages have the text format of Prometheus. Metrics are off by default.",
        "",
        "## Model server",
        "",
        "`server.metrics_port` in [sealserve.toml](sealserve-toml.md#server) turns the page on for each replica. The",
        "names, labels and buckets are the same as in TensorFlow Serving, so its dashboards work unchanged. Names that",
        "begin with `sealserve_server_` exist only here.",
        "",
        "| Metric | Type | Labels | Meaning |",
        "|---|---|---|---|",
    )
    declared = [found for found in vars(Metrics()).values() if isinstance(found, Counter | Gauge | Histogram)]
    for metric in sorted(declared, key=lambda metric: metric.name):
        labels = ", ".join(f"`{label}`" for label in getattr(metric, "_labels", ()))
        meaning = MEANINGS[re.split(r":|sealserve_server_", metric.name)[-1]]
        yield f"| `{metric.name}` | {type(metric).__name__.lower()} | {labels} | {meaning} |"
    yield from (
        "",
        "## Broker",
        "",
        "`broker.metrics_port` turns the page on. The broker serves it at `127.0.0.1` only, at the path `/metrics`.",
        "At the same port, `/healthz` returns status 200 while the broker runs.",
        "`/readyz` returns status 200 if the broker can release keys, and otherwise status 503 and the error code.",
        "",
        "| Metric | Type | Labels | Meaning |",
        "|---|---|---|---|",
    )
    now = datetime(2026, 1, 1, tzinfo=UTC)
    observed = broker_metrics.Observed(
        decisions=broker_metrics.Decisions(),
        certificates=lambda: {"server": now},
        collateral=lambda: {("vendor", "document"): broker_metrics.Fetched(at=now, next_update=now)},
        ready=lambda: None,
        connections=lambda: {"silent": 0},
        reloads=lambda: {"certificate": True},
        notifications=lambda: {"sent": 0},
    )
    page = observed.page()
    for name, meaning in re.findall(r"^# HELP (\S+) (.*)$", page, re.MULTILINE):
        kind = re.search(rf"^# TYPE {name} (\w+)$", page, re.MULTILINE)
        sample = re.search(rf"^{name}(?:_bucket)?{{(.*?)}}", page, re.MULTILINE)
        found = re.findall(r'(\w+)="', sample[1] if sample else "")
        labels = ", ".join(f"`{label}`" for label in found if label != "le")
        yield f"| `{name}` | {kind[1] if kind else ''} | {labels} | {_cell(meaning)} |"
    outcomes = ", ".join(f"`{outcome.value}`" for outcome in broker_metrics.Outcome)
    yield from (
        "",
        f"`outcome` of decisions is one of {outcomes}. `outcome` of notifications is `sent`, `failed` or `dropped`.",
        "`code` is the [error's code](errors.md). `file` is `certificate`, `master key`, `token signing key` or",
        "`signing secret`. `state` is `silent` (no byte was sent yet), `waiting` (the broker waits for the peer) or",
        "`busy` (an appraisal is in progress). The Prometheus library adds the metrics that begin with `process_`.",
        "",
        "A stage is counted when it succeeded. The stages of a request are:",
        "",
        "| `stage` | Meaning |",
        "|---|---|",
    )
    yield from (f"| `{stage}` | {_cell(meaning)} |" for stage, meaning in _member_docs(Stage))


def _member_docs(kind: type[enum.StrEnum]) -> Iterator[tuple[str, str]]:
    """Yield each member's value and the docstring below it, which only the source has."""
    for name, text in re.findall(r'^    (\w+) = .*\n    """(.*)"""$', inspect.getsource(kind), re.MULTILINE):
        yield kind[name].value, text


# JSON documents


def _json_page() -> Iterator[str]:
    yield from (
        "# JSON documents",
        "",
        WRITTEN.format(source="the schemas in docs/reference"),
        "",
        "These documents have a JSON Schema (draft 2020-12). The schemas are generated from the code that reads or",
        "writes these documents.",
        "",
        "Two HTTP APIs have an OpenAPI description: the [REST API](openapi.json) of the model server, and the",
        "[administration API](administration-openapi.json) of the broker.",
        "",
    )
    for path in sorted(FOLDER.glob("*.schema.json")):
        schema = json.loads(path.read_text(encoding="utf-8"))
        yield from (f"## {schema['title']}", "", f"Schema: [{path.name}]({path.name})", "")
        yield from _object(schema, schema)
        for name, inner in schema.get("$defs", {}).items():
            if "properties" in inner:
                yield from (f"### {name}", "", *_object(inner, schema))


def _object(item: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[str]:
    if description := item.get("description"):
        yield from (_markdown(" ".join(description.partition("\n\n")[0].split())), "")
    yield from ("| Key | Type | Meaning |", "|---|---|---|")
    for name, value in item["properties"].items():
        yield f"| `{name}` | {_cell(_json_type(value, schema))} | {_cell(_markdown(value.get('description', '')))} |"
    yield ""


def _json_type(item: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """Return the type of a value. A definition that has keys is a link to its section."""
    if (reference := item.get("$ref")) is not None:
        name = reference.rpartition("/")[2]
        inner = schema["$defs"][name]
        return f"[{name}](#{_slug(name)})" if "properties" in inner else _json_type(inner, schema)
    if (choices := item.get("anyOf")) is not None:
        return " or ".join(dict.fromkeys(_json_type(choice, schema) for choice in choices))
    if item.get("type") == "array" and "items" in item:
        return f"array of {_json_type(item['items'], schema)}"
    if item.get("type") == "object" and isinstance(item.get("additionalProperties"), dict):
        return f"object of {_json_type(item['additionalProperties'], schema)}"
    return _type(item, schema) if "type" in item or "enum" in item or "const" in item else "any"


def _slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


PAGES: Mapping[str, Callable[[], Iterator[str]]] = {
    "cli.md": _command_line,
    "sealserve-toml.md": _toml_page,
    "client-api.md": _client_page,
    "metrics.md": _metrics_page,
    "json-schemas.md": _json_page,
}


def main() -> None:
    """Write the pages, or compare them with ``--check``."""
    write_or_check({FOLDER / name: partial(render, name) for name in PAGES}, description=__doc__, target="reference")


if __name__ == "__main__":
    main()
