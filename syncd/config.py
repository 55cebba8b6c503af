"""The configuration: config.yaml, every key of it overridable by the environment.

`load_config` reports every mistake at once, each with the key's path, the variable that overrides
it and what would be right. No secret has a default. The `api` section belongs to the application
beside the daemon and is handed on as it is.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    SecretStr,
    ValidationError,
    model_validator,
)

from syncd.errors import ConfigError

SECRET_LENGTH_MIN = 32

ENVIRONMENT: dict[tuple[str, ...], str] = {
    ("node",): "NODE_NAME",
    ("database",): "DB_PATH",
    ("tables",): "SYNC_TABLES",
    ("sync", "interval"): "SYNC_INTERVAL",
    ("sync", "keys"): "SYNC_KEYS",
    ("sync", "max_clock_drift"): "SYNC_MAX_CLOCK_DRIFT",
    ("sync", "retention"): "SYNC_RETENTION",
    ("sync", "wake_within"): "SYNC_WAKE_WITHIN",
    ("peers",): "SYNC_PEERS",
    ("serve", "app"): "SERVE_APP",
    ("serve", "host"): "SERVE_HOST",
    ("serve", "port"): "PORT",
    ("serve", "threads"): "SERVE_THREADS",
}
"""Which variable overrides which key."""

_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
DURATION_MS_MAX = 36_500 * _UNITS_MS["d"]
"""A hundred years: whatever a duration is added to stays a date, a stamp and a timeout."""


def duration_ms(text: object) -> int:
    """Read a duration such as `5s`, `10m` or `90d`; return milliseconds."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)", str(text).strip())
    if match is None:
        raise ValueError(
            f"{text!r} is not a duration; write a number and a unit, such as 5s, 10m or 90d"
        )
    ms = float(match[1]) * _UNITS_MS[match[2]]
    if ms > DURATION_MS_MAX:
        raise ValueError("a duration may be 36500d at most")
    return round(ms)


def valid_name(value: str) -> str:
    """Return the name of a host or a key; raise `ValueError` if it is none, with what one is."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", value):
        raise ValueError(
            f"{value!r} is not a name; write letters, digits, dots and dashes, such as host-a"
        )
    return value


def _url(value: str) -> str:
    if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", value):
        raise ValueError(f"{value!r} is not a base URL; write one such as https://host-b.example")
    return value.rstrip("/")


def _host(value: str) -> str:
    bracketed = re.fullmatch(r"\[(.*:.*)\]", value)  # an IPv6 address as URLs have it
    return bracketed[1] if bracketed else value


def _secret(value: SecretStr) -> SecretStr:
    if len(value.get_secret_value()) < SECRET_LENGTH_MIN:
        raise ValueError(
            f"shorter than {SECRET_LENGTH_MIN} characters; make one with: syncd keygen"
        )
    return value


def _present(value: Any) -> Any:
    if not value:
        raise ValueError("empty; make a key with: syncd keygen, and give every host the same")
    return value


def _table_key(value: Any) -> tuple[str, ...] | str:
    if value == "generated":
        return "generated"
    if isinstance(value, list) and value and all(isinstance(name, str) for name in value):
        return _distinct(tuple(value))
    raise ValueError(f"{value!r} is no key; write its columns, as in [device_id], or generated")


def _distinct(columns: tuple[str, ...]) -> tuple[str, ...]:
    for column in _repeated(columns):
        raise ValueError(f"column {column!r} is named twice")
    return columns


Name = Annotated[str, AfterValidator(valid_name)]
DurationMs = Annotated[int, BeforeValidator(duration_ms)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, tree: Any) -> Any:
        """A key with nothing behind it counts as left out, as an empty variable counts as unset."""
        if tree is None:
            return {}
        if not isinstance(tree, dict):
            return tree
        return {k: v for k, v in tree.items() if v is not None or k not in cls.model_fields}


class Key(_Section):
    """A shared secret of the hosts, and the id under which signatures name it."""

    id: Name
    secret: Annotated[SecretStr, AfterValidator(_secret)]


class Columns(_Section):
    """Which columns of a table stay on this host."""

    exclude: Annotated[tuple[str, ...], AfterValidator(_distinct)] = ()


class TableConfig(_Section):
    """How a table is enrolled.

    key: the columns that identify a row, None for the PRIMARY KEY, or `generated` for a log whose
    rows have no identity of their own. stamp_from: the column that says when rows that are there
    already were last written. triggers: those on the table that are known to fire only where a
    change is born, and are not warned of.
    """

    key: Annotated[tuple[str, ...] | str | None, PlainValidator(_table_key)] = None
    columns: Columns = Columns()
    stamp_from: str | None = None
    triggers: tuple[str, ...] = ()


class Peer(_Section):
    """Another host. push: it cannot run a daemon, so changes are pushed to it as well."""

    name: Name
    url: Annotated[str, AfterValidator(_url)]
    push: bool = False


class Sync(_Section):
    """How hosts exchange changes; durations in milliseconds."""

    keys: Annotated[tuple[Key, ...], AfterValidator(_present)] = Field(
        description="make one with: syncd keygen, and give every host the same"
    )
    interval: DurationMs = 5_000
    max_clock_drift: DurationMs = 300_000
    wake_within: DurationMs = 75_000
    retention: DurationMs = 7_776_000_000


class Serve(_Section):
    """What `syncd up` serves. app: a WSGI application or factory, as gunicorn names it."""

    app: str = "api.app:create_app()"
    # A container's port is only reachable if it binds them all.
    host: Annotated[str, AfterValidator(_host)] = "0.0.0.0"  # noqa: S104
    port: Annotated[int, Field(ge=1, le=65535)] = 5000
    threads: Annotated[int, Field(ge=1, le=256)] = 8

    @property
    def address(self) -> str:
        """Host and port, as URLs have them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class Config(_Section):
    """The whole configuration of one host."""

    node: Name = Field(description="a name for this host, such as host-a")
    database: Path = Field(description="the SQLite file, such as data/protecao.db")
    tables: Annotated[dict[str, TableConfig], Field(min_length=1)] = Field(
        description="the tables to sync, such as {devices: {key: [device_id]}}"
    )
    sync: Sync = Field(description="at least its keys")
    peers: tuple[Peer, ...] = Field(
        (), description="the other hosts, such as [{name: host-b, url: https://host-b.example}]"
    )
    serve: Serve = Serve()
    api: dict[str, Any] = {}


ApplicationCheck = Callable[
    [str, Mapping[str, Any], Mapping[str, str], "Config | None"], Sequence[str]
]
"""Says what is wrong in the `api` section of an application.

Given `serve.app`, the section, the environment, and the rest of the configuration, which is None
where that is wrong itself.
"""


def load_config(
    path: str | Path | None = None,
    environ: Mapping[str, str] | None = None,
    check: ApplicationCheck | None = None,
) -> Config:
    """Read the configuration, or raise `ConfigError` with everything that is wrong.

    path: the YAML file; by default $SYNCD_CONFIG or ./config.yaml. A relative `database` counts
    from that file's folder, one from $DB_PATH from the working directory. check: asked for the
    application's own mistakes, to be reported together with ours.
    """
    environ = os.environ if environ is None else environ
    file = Path(path or environ.get("SYNCD_CONFIG") or "config.yaml")
    tree = _read(file)
    problems: list[str] = []
    for keys, variable in ENVIRONMENT.items():
        if environ.get(variable, "").strip():
            _override(tree, keys, variable, environ[variable].strip(), problems)
    config = None
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        problems += _explain(error)
    problems += _contradictions(tree)
    if check is not None:
        problems += _of_application(tree, environ, check, config)
    if problems or config is None:
        raise ConfigError(problems)
    base = Path() if environ.get("DB_PATH", "").strip() else file.parent
    return config.model_copy(update={"database": (base / config.database).absolute()})


def _of_application(
    tree: dict[str, Any],
    environ: Mapping[str, str],
    check: ApplicationCheck,
    config: Config | None,
) -> Sequence[str]:
    serve, section = tree.get("serve"), tree.get("api")
    app = serve.get("app") if isinstance(serve, dict) else None
    section = section if isinstance(section, dict) else {}
    return check(str(app or Serve().app), section, environ, config)


def _read(file: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError([f"{file}: there is no such file; name one with --config FILE"]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{file}: cannot be read: {error}"]) from error
    except yaml.YAMLError as error:
        raise ConfigError([f"{file}: cannot be read as YAML: {_mistake(error)}"]) from None
    if not isinstance(tree, dict):
        raise ConfigError([f"{file}: must be a mapping that starts with `node:`"])
    return tree


def _override(
    tree: dict[str, Any], keys: tuple[str, ...], variable: str, text: str, problems: list[str]
) -> None:
    *parents, last = keys
    for parent in parents:
        if not isinstance(tree.get(parent), dict):
            tree[parent] = {}
        tree = tree[parent]
    try:
        tree[last] = _PARSERS.get(variable, str)(text)
    except ValueError as error:
        problems.append(f"{'.'.join(keys)} ({variable}): {error}")


def _peers(text: str) -> Any:
    if text.startswith("["):
        return _yaml(text)
    pairs = [item.partition("=") for item in text.split(",") if item.strip()]
    if any(not separator for _, separator, _ in pairs):
        raise ValueError("write it as b=https://b.example,c=https://c.example")
    return [{"name": name.strip(), "url": url.strip()} for name, _, url in pairs]


def _keys(text: str) -> Any:
    if text.startswith("["):
        return _yaml(text)
    pairs = [item.partition(":") for item in text.split(",") if item.strip()]
    if any(not separator for _, separator, _ in pairs):
        raise ValueError("write it as k2:SECRET,k1:SECRET; the first signs, all are accepted")
    return [{"id": name.strip(), "secret": secret.strip()} for name, _, secret in pairs]


def _yaml(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"cannot be read as YAML: {_mistake(error)}") from None


def _mistake(error: yaml.YAMLError) -> str:
    """Say what is wrong and where, without the text around it, which may be a secret."""
    mark = getattr(error, "problem_mark", None)
    where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return f"{getattr(error, 'problem', None) or 'malformed'}{where}"


_PARSERS = {"SYNC_PEERS": _peers, "SYNC_KEYS": _keys, "SYNC_TABLES": _yaml}


def _explain(error: ValidationError) -> list[str]:
    return [
        f"{_where(tuple(problem['loc']))}: {_what(problem['type'], problem['msg'], problem['loc'])}"
        for problem in error.errors(include_url=False)
    ]


def _where(keys: tuple[int | str, ...]) -> str:
    path = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).lstrip(".")
    variable = next((v for k, v in ENVIRONMENT.items() if keys[: len(k)] == k), None)
    return f"{path} ({variable})" if variable else path


_PLAIN = {
    "missing": "missing",
    "extra_forbidden": "there is no such key",
    "too_short": "empty",
    "tuple_type": "must be a list, as in [a, b]",
    "dict_type": "must be a mapping, as in {a: b}",
    "model_type": "must be a mapping, as in {a: b}",
    "string_type": "must be a text, as in 'a'",
    "path_type": "must be a text, as in 'a'",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
}
"""What pydantic finds, in words of YAML."""


def _what(kind: str, message: str, keys: tuple[int | str, ...]) -> str:
    plain = _PLAIN.get(kind)
    if plain is None:
        return re.sub("^Input should ", "must ", message.removeprefix("Value error, "))
    hint = _description(keys)
    return f"{plain}; {hint}" if hint else plain


def _description(keys: tuple[int | str, ...]) -> str | None:
    models: dict[tuple[int | str, ...], type[BaseModel]] = {(): Config, ("sync",): Sync}
    field = models.get(keys[:-1], _Section).model_fields.get(str(keys[-1]))
    return field.description if field else None


def _repeated(names: Sequence[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})


def _contradictions(tree: dict[str, Any]) -> list[str]:
    names = _all_of(tree.get("peers"), "name")
    problems = [f"peers: the name {name!r} is given twice" for name in _repeated(names)]
    if tree.get("node") in names:
        problems.append(f"peers: {tree['node']!r} is this host itself (node)")
    sync = tree.get("sync")
    ids = _repeated(_all_of(sync.get("keys") if isinstance(sync, dict) else None, "id"))
    problems += [f"sync.keys (SYNC_KEYS): the id {key!r} is given twice" for key in ids]
    return problems


def _all_of(items: object, name: str) -> list[str]:
    if not isinstance(items, list):
        return []
    return [str(item[name]) for item in items if isinstance(item, dict) and name in item]
