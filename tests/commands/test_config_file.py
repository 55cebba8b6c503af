"""The configuration: every mistake at once, every key overridable, no secret ever shown."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from commands.cli_host import SECRET, CliHost, refused
from syncd.config import (
    DURATION_MS_MAX,
    ENVIRONMENT,
    Config,
    Serve,
    TableConfig,
    duration_ms,
    load_config,
)
from syncd.errors import ConfigError

GOOD: dict[str, Any] = {
    "node": "host-a",
    "database": "data/notes.db",
    "tables": {"note": {"key": ["name"]}},
    "sync": {"keys": [{"id": "k1", "secret": SECRET}]},
}
OTHER_SECRET = "x" * 40


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.yaml"


def load(file: Path, tree: Any = None, environ: Mapping[str, str] | None = None) -> Config:
    file.write_text(tree if isinstance(tree, str) else yaml.safe_dump(tree or GOOD))
    return load_config(file, environ or {})


def mistakes(file: Path, tree: Any = None, environ: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(file, tree, environ)
    return list(caught.value.problems)


def with_changes(**changes: Any) -> dict[str, Any]:
    return {**GOOD, **changes}


def test_a_minimal_file_is_enough(file: Path) -> None:
    """Node, database, tables and a key; the rest has defaults."""
    config = load(file)
    assert config.node == "host-a"
    assert config.tables["note"].key == ("name",)
    assert (config.sync.interval, config.sync.max_clock_drift) == (5_000, 300_000)
    assert (config.sync.wake_within, config.sync.retention) == (75_000, 7_776_000_000)
    assert config.peers == ()
    assert (config.serve.port, config.serve.threads) == (5000, 8)


def test_the_repositorys_own_file_is_right_but_for_its_secrets() -> None:
    """config.yaml at the top loads once the environment brings the key, and says so without it."""
    ours = Path(__file__).resolve().parents[2] / "config.yaml"
    config = load_config(ours, {"SYNC_KEYS": f"k1:{SECRET}"})
    assert {"devices", "blocked_devices", "admin_users", "users"} <= set(config.tables)
    with pytest.raises(ConfigError) as caught:
        load_config(ours, {})
    assert len(caught.value.problems) == 1
    assert "sync.keys (SYNC_KEYS)" in caught.value.problems[0]
    assert "syncd keygen" in caught.value.problems[0]


def test_all_mistakes_are_told_at_once(file: Path) -> None:
    """Each with the key's path, the variable that overrides it, and what would be right."""
    found = mistakes(
        file,
        {
            "node": "host a",
            "tables": {},
            "sync": {
                "interval": "5 parsecs",
                "keys": [{"id": "k1", "secret": "short"}],
                "max_clock_drift": 5,
            },
            "peers": [{"name": "b", "url": "b.example"}, {"url": "https://c.example/?x=1"}],
            "serve": {"port": 70_000, "threads": "many"},
            "colour": "red",
        },
    )
    expected = {
        "node (NODE_NAME)": "host-a",
        "database (DB_PATH)": "missing; the SQLite file, such as data/protecao.db",
        "tables (SYNC_TABLES)": "empty; the tables to sync",
        "sync.interval (SYNC_INTERVAL)": "such as 5s, 10m or 90d",
        "sync.keys[0].secret (SYNC_KEYS)": "syncd keygen",
        "sync.max_clock_drift (SYNC_MAX_CLOCK_DRIFT)": "a number and a unit",
        "peers[0].url (SYNC_PEERS)": "such as https://host-b.example",
        "peers[1].name (SYNC_PEERS)": "missing",
        "peers[1].url (SYNC_PEERS)": "base URL",
        "serve.port (PORT)": "65535",
        "serve.threads (SERVE_THREADS)": "must be a whole number",
        "colour": "there is no such key",
    }
    assert len(found) == len(expected)
    for path, hint in expected.items():
        (problem,) = [problem for problem in found if problem.startswith(f"{path}: ")]
        assert hint in problem


def test_contradictions_are_told_together_with_other_mistakes(file: Path) -> None:
    """A repeated peer does not wait to be told until the interval is right."""
    peer = {"name": "b", "url": "https://b.example"}
    sync = {**GOOD["sync"], "interval": "soon"}
    found = mistakes(file, with_changes(peers=[peer, peer], sync=sync))
    assert any("sync.interval" in problem for problem in found)
    assert any("'b' is given twice" in problem for problem in found)


def test_mistakes_in_variables_are_told_with_those_in_the_file(file: Path) -> None:
    """The environment and the file are checked together."""
    found = mistakes(
        file, with_changes(node="host a"), {"SYNC_PEERS": "b", "SYNC_KEYS": "k1", "PORT": "http"}
    )
    assert len(found) == 4
    for start in ("node (NODE_NAME)", "peers (SYNC_PEERS)", "sync.keys (SYNC_KEYS)", "serve.port"):
        assert [problem for problem in found if problem.startswith(start)], start


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        pytest.param(
            {"peers": [{"name": "b", "url": "http://b"}] * 2}, "'b' is given twice", id="twice"
        ),
        pytest.param(
            {"peers": [{"name": "host-a", "url": "http://b"}]}, "this host itself", id="itself"
        ),
        pytest.param(
            {"sync": {"keys": [{"id": "k1", "secret": SECRET}] * 2}},
            "sync.keys (SYNC_KEYS): the id 'k1' is given twice",
            id="a key id twice",
        ),
        pytest.param(
            {"sync": {"keys": []}}, "sync.keys (SYNC_KEYS): empty; make a key", id="no keys"
        ),
        pytest.param(
            {"tables": {"note": {"key": []}}}, "tables.note.key (SYNC_TABLES)", id="empty key"
        ),
        pytest.param(
            {"tables": {"note": {"keys": ["name"]}}},
            "tables.note.keys (SYNC_TABLES): there is no such key",
            id="a misspelt key",
        ),
        pytest.param(
            {"tables": {"note": {"key": "name"}}},
            "tables.note.key (SYNC_TABLES): 'name' is no key",
            id="a key that is neither columns nor generated",
        ),
        pytest.param(
            {"tables": ["note"]},
            "tables (SYNC_TABLES): must be a mapping, as in {a: b}; the tables to sync, such as {",
            id="a list of tables",
        ),
        pytest.param({"tables": {}}, "tables (SYNC_TABLES): empty; the tables", id="no tables"),
        pytest.param({"tables": None}, "tables (SYNC_TABLES): missing; the tables", id="null"),
        pytest.param(
            {"tables": {"note": "name"}},
            "tables.note (SYNC_TABLES): must be a mapping",
            id="a text for a table",
        ),
        pytest.param(
            {"tables": {"note": {"columns": {"exclude": "text"}}}},
            "tables.note.columns.exclude (SYNC_TABLES): must be a list, as in [a, b]",
            id="a text for a list",
        ),
        pytest.param(
            {"tables": {"note": {"columns": {"exclude": ["a", "b", "a"]}}}},
            "tables.note.columns.exclude (SYNC_TABLES): column 'a' is named twice",
            id="an excluded column twice",
        ),
        pytest.param(
            {"tables": {"note": {"key": ["a", "a"]}}},
            "tables.note.key (SYNC_TABLES): column 'a' is named twice",
            id="a key's column twice",
        ),
        pytest.param(
            {"peers": "b"},
            "peers (SYNC_PEERS): must be a list, as in [a, b]; the other hosts, such as [{",
            id="a text for the peers",
        ),
        pytest.param(
            {"peers": [{"name": "b", "url": "http://b", "push": "often"}]},
            "peers[0].push (SYNC_PEERS): must be true or false",
            id="a text for a switch",
        ),
        pytest.param({"peerz": None}, "peerz: there is no such key", id="a misspelt list"),
        pytest.param({"sync": None}, "sync: missing; at least its keys", id="no section"),
        pytest.param(
            {"node": 5}, "node (NODE_NAME): must be a text, as in 'a'", id="a number for a name"
        ),
        pytest.param(
            {"serve": {"threads": 1.5}},
            "serve.threads (SERVE_THREADS): must be a whole number",
            id="half a thread",
        ),
        pytest.param(
            {"serve": {"port": 70_000}},
            "serve.port (PORT): must be less than or equal to 65535",
            id="no port",
        ),
    ],
)
def test_a_mistake_is_one_message(changes: dict[str, Any], fragment: str, file: Path) -> None:
    """One mistake, one message that begins with the key."""
    (problem,) = mistakes(file, with_changes(**changes))
    assert fragment in problem


def test_a_key_with_nothing_behind_it_counts_as_left_out(file: Path) -> None:
    """As YAML has it where all entries of a list are commented out."""
    config = load(
        file,
        f"""
        node: host-a
        database: data/notes.db
        tables:
          note:
          log: {{key: , columns: , triggers: }}
          device: {{columns: {{exclude: }}}}
        sync: {{interval: , keys: [{{id: k1, secret: {SECRET}}}]}}
        peers:
          # - {{name: b, url: https://b.example}}
        serve:
        api:
        """,
    )
    assert config.tables == dict.fromkeys(("note", "log", "device"), TableConfig())
    assert (config.peers, config.serve, config.api) == ((), Serve(), {})
    assert config.sync.interval == 5_000


@pytest.mark.parametrize(
    "url",
    [
        "b.example",
        "ftp://b.example",
        "https://",
        "https://b.example/?token=1",
        "https://b.example/#x",
        "https://user:password@b.example",
        "https://b example",
        "",
    ],
)
def test_what_is_no_base_url_is_refused(url: str, file: Path) -> None:
    """A peer's url has a scheme and a host, perhaps a path, and nothing else."""
    (problem,) = mistakes(file, with_changes(peers=[{"name": "b", "url": url}]))
    assert problem.startswith("peers[0].url (SYNC_PEERS): ")
    assert "https://host-b.example" in problem


@pytest.mark.parametrize(
    "url", ["https://b.example/", "https://b.example:8443/x/", "http://[::1]:5"]
)
def test_a_base_url_loses_its_last_slash_only(url: str, file: Path) -> None:
    """Paths are put behind it, so it ends without a slash."""
    config = load(file, with_changes(peers=[{"name": "b", "url": url}]))
    assert config.peers[0].url == url.rstrip("/")


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("500ms", 500),
        ("5s", 5_000),
        ("1.5s", 1_500),
        ("10m", 600_000),
        ("12h", 43_200_000),
        ("90d", 7_776_000_000),
        (" 5s ", 5_000),
    ],
)
def test_a_duration_is_a_number_and_a_unit(text: str, ms: int) -> None:
    """Milliseconds to days, fractions allowed."""
    assert duration_ms(text) == ms


NO_DURATIONS = ("5", "s", "5 s", "-5s", "5x", "1e3s", "", "5s5s", None, 5)


@pytest.mark.parametrize("text", [*NO_DURATIONS, pytest.param("\u0665s", id="another script")])
def test_what_is_no_duration_says_what_is(text: object) -> None:
    """A bare number could be anything, so it is refused."""
    with pytest.raises(ValueError, match="5s, 10m or 90d"):
        duration_ms(text)


UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


@given(st.data(), st.sampled_from(sorted(UNITS_MS)))
def test_durations_are_exact(data: st.DataObject, unit: str) -> None:
    """Whole numbers of any unit are read without rounding."""
    number = data.draw(st.integers(0, DURATION_MS_MAX // UNITS_MS[unit]))
    assert duration_ms(f"{number}{unit}") == number * UNITS_MS[unit]


@pytest.mark.parametrize(
    "text", ["36501d", "3153600000001ms", "99999999999999999d", "9" * 400 + "s"]
)
def test_a_duration_has_a_bound(text: str, file: Path) -> None:
    """Clocks and calendars end; a mistyped retention must not end the daemon as well."""
    assert duration_ms("36500d") == DURATION_MS_MAX
    (problem,) = mistakes(file, environ={"SYNC_RETENTION": text})
    assert problem == "sync.retention (SYNC_RETENTION): a duration may be 36500d at most"


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("localhost", "localhost:5000"),
        ("0.0.0.0", "0.0.0.0:5000"),
        ("::1", "[::1]:5000"),
        ("[::1]", "[::1]:5000"),
        ("[::]", "[::]:5000"),
    ],
)
def test_an_address_is_told_as_urls_have_it(host: str, address: str, file: Path) -> None:
    """An IPv6 address is in brackets there, given with or without."""
    assert load(file, with_changes(serve={"host": host})).serve.address == address


OVERRIDES: dict[str, tuple[str, Any]] = {
    "NODE_NAME": ("elsewhere", "elsewhere"),
    "DB_PATH": ("/var/other.db", Path("/var/other.db")),
    "SYNC_TABLES": (
        "{other: {key: [a, b], columns: {exclude: [c]}}}",
        {"other": {"key": ("a", "b"), "columns": {"exclude": ("c",)}}},
    ),
    "SYNC_INTERVAL": ("300ms", 300),
    "SYNC_KEYS": (f"k9:{OTHER_SECRET}", [("k9", OTHER_SECRET)]),
    "SYNC_MAX_CLOCK_DRIFT": ("1h", 3_600_000),
    "SYNC_RETENTION": ("30d", 2_592_000_000),
    "SYNC_WAKE_WITHIN": ("2m", 120_000),
    "SYNC_PEERS": ("z=https://z.example", [("z", "https://z.example", False)]),
    "SERVE_APP": ("mine:app", "mine:app"),
    "SERVE_HOST": ("127.0.0.1", "127.0.0.1"),
    "PORT": ("8080", 8080),
    "SERVE_THREADS": ("2", 2),
}
FULL = with_changes(
    sync={
        **GOOD["sync"],
        "interval": "7s",
        "max_clock_drift": "7m",
        "wake_within": "70s",
        "retention": "60d",
    },
    peers=[{"name": "b", "url": "https://b.example"}],
    serve={"app": "theirs:app", "host": "0.0.0.0", "port": 7000, "threads": 7},
)


def plain(config: Config, keys: tuple[str, ...]) -> Any:
    """Return a part of a configuration as plain values, secrets included."""
    found: Any = config
    for key in keys:
        found = getattr(found, key)
    if keys == ("sync", "keys"):
        return [(key.id, key.secret.get_secret_value()) for key in found]
    if keys == ("peers",):
        return [(peer.name, peer.url, peer.push) for peer in found]
    if keys == ("tables",):
        return {name: table.model_dump(exclude_defaults=True) for name, table in found.items()}
    return found


def test_every_variable_is_tried_below() -> None:
    """A new variable needs a case of its own here."""
    assert set(OVERRIDES) == set(ENVIRONMENT.values())


@pytest.mark.parametrize("variable", OVERRIDES)
def test_a_variable_overrides_its_key_and_nothing_else(variable: str, file: Path) -> None:
    """Each one, over a file in which every key is given."""
    text, expected = OVERRIDES[variable]
    before, after = load(file, FULL), load(file, FULL, {variable: text})
    for keys, name in ENVIRONMENT.items():
        if name == variable:
            assert plain(after, keys) == expected != plain(before, keys)
        else:
            assert plain(after, keys) == plain(before, keys)


@pytest.mark.parametrize("variable", OVERRIDES)
def test_an_empty_variable_counts_as_unset(variable: str, file: Path) -> None:
    """Hosting dashboards leave empty variables behind."""
    assert load(file, FULL, {variable: "  "}) == load(file, FULL)


def test_variables_alone_can_bring_whole_sections(file: Path) -> None:
    """A file without a sync section is completed by the environment."""
    tree = {key: value for key, value in GOOD.items() if key != "sync"}
    config = load(file, tree, {"SYNC_KEYS": f"k1:{SECRET}", "SYNC_INTERVAL": "1s"})
    assert config.sync.interval == 1000


def test_keys_in_a_variable_keep_their_order(file: Path) -> None:
    """The first one signs."""
    text = f" k2:{OTHER_SECRET} , k1:{SECRET} "
    config = load(file, environ={"SYNC_KEYS": text})
    assert plain(config, ("sync", "keys")) == [("k2", OTHER_SECRET), ("k1", SECRET)]


def test_a_secret_may_contain_what_keygen_and_others_make(file: Path) -> None:
    """Only the first colon separates the id from the secret."""
    secret = "a:b=c/d+e_f-" * 4
    config = load(file, environ={"SYNC_KEYS": f"k1:{secret}"})
    assert plain(config, ("sync", "keys")) == [("k1", secret)]


def test_keys_and_peers_in_a_variable_may_be_yaml(file: Path) -> None:
    """What the short form cannot say, such as push: true, the long one can."""
    config = load(
        file,
        environ={
            "SYNC_PEERS": '[{name: c, url: "https://c.example", push: true}]',
            "SYNC_KEYS": f"[{{id: k1, secret: {SECRET}}}]",
        },
    )
    assert plain(config, ("peers",)) == [("c", "https://c.example", True)]
    assert plain(config, ("sync", "keys")) == [("k1", SECRET)]


def test_peers_in_a_variable_may_be_many(file: Path) -> None:
    """Spaces and a comma too many do no harm."""
    config = load(file, environ={"SYNC_PEERS": " b=https://b.example , c=http://c:81/x/ ,"})
    assert plain(config, ("peers",)) == [
        ("b", "https://b.example", False),
        ("c", "http://c:81/x", False),
    ]


@pytest.mark.parametrize(
    ("variable", "text", "form"),
    [
        ("SYNC_PEERS", "https://b.example", "b=https://b.example,c=https://c.example"),
        ("SYNC_PEERS", "[{name: b", "YAML"),
        ("SYNC_KEYS", SECRET, "k2:SECRET,k1:SECRET"),
        ("SYNC_KEYS", "[{id: k1", "YAML"),
        ("SYNC_TABLES", "{note: {key", "YAML"),
    ],
)
def test_a_variable_of_another_form_says_which_is_right(
    variable: str, text: str, form: str, file: Path
) -> None:
    """One message, with the form to write."""
    (problem,) = mistakes(file, FULL, {variable: text})
    assert f"({variable}): " in problem
    assert form in problem


def test_missing_secrets_name_the_command_that_makes_them(file: Path) -> None:
    """Without keys the message says how to make one, and that all hosts need the same."""
    (problem,) = mistakes(file, with_changes(sync={"interval": "5s"}))
    assert problem.startswith("sync.keys (SYNC_KEYS): missing; ")
    assert "syncd keygen" in problem
    assert "every host" in problem


@pytest.mark.parametrize(
    ("tree", "environ"),
    [
        pytest.param(
            with_changes(sync={"keys": [{"id": "k 1", "secret": SECRET, "x": 1}]}), {}, id="file"
        ),
        pytest.param(GOOD, {"SYNC_KEYS": f"k 1:{SECRET},k 1:{SECRET}"}, id="variable"),
        pytest.param(GOOD, {"SYNC_KEYS": f"[{{id: k1, secret: '{SECRET}"}, id="broken variable"),
        pytest.param(
            f"node: a\nsync:\n  keys:\n  - {{id: k1, secret: '{SECRET}}}\n", {}, id="broken file"
        ),
        pytest.param(
            with_changes(sync={"keys": [{"id": "k1", "secret": SECRET[:31]}]}), {}, id="too short"
        ),
        pytest.param(with_changes(sync={"keys": SECRET}), {}, id="a secret without an id"),
    ],
)
def test_no_mistake_shows_a_secret(tree: Any, environ: dict[str, str], file: Path) -> None:
    """Messages end up in logs and chats, so no part of a key may stand in one."""
    for problem in mistakes(file, tree, environ):
        assert SECRET[:16] not in problem


def test_a_configuration_shows_no_secret(file: Path) -> None:
    """Neither does its repr."""
    assert SECRET not in repr(load(file))


def test_the_database_counts_from_the_files_folder(file: Path) -> None:
    """Wherever a command is started from."""
    assert load(file).database == file.parent / "data/notes.db"


def test_db_path_counts_from_the_working_directory(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As every path that is typed into a shell does."""
    elsewhere = file.parent / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert load(file, environ={"DB_PATH": "x.db"}).database == elsewhere / "x.db"


def test_the_file_is_named_by_a_variable(file: Path) -> None:
    """$SYNCD_CONFIG names the file where no argument does."""
    load(file)
    assert load_config(environ={"SYNCD_CONFIG": str(file)}).node == "host-a"


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("node: [", "cannot be read as YAML"),
        ("- node", "must be a mapping"),
        ("", "must be a mapping"),
        ("node: \xff", "cannot be read"),
    ],
)
def test_a_file_that_is_no_configuration_is_named(text: str, fragment: str, file: Path) -> None:
    """The message begins with the file."""
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError) as caught:
        load_config(file, {})
    (problem,) = caught.value.problems
    assert problem.startswith(str(file))
    assert fragment in problem


def test_a_missing_file_says_how_to_name_one(tmp_path: Path) -> None:
    """The usual first mistake has a hint."""
    with pytest.raises(ConfigError, match="no such file; name one with --config"):
        load_config(tmp_path / "config.yaml", {})


@pytest.mark.parametrize(
    "command",
    [
        ("init",),
        ("status",),
        ("sync",),
        ("export", "x.syncd"),
        ("import", "x.syncd"),
        ("run",),
    ],
)
def test_every_command_lists_the_mistakes_and_ends_with_2(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    """The number of mistakes, one line each, on standard error; nothing is created."""
    host = CliHost(tmp_path / "a")
    host.write_config(node="host a", sync={"interval": "5"})
    refused(host.run(*command), "3 mistakes:", "sync.keys (SYNC_KEYS)", errors=3)
    assert sorted(path.name for path in host.folder.iterdir()) == ["config.yaml"]


def test_up_lists_the_applications_mistakes_too(tmp_path: Path) -> None:
    """What `up` serves has settings of its own, and they do not wait for the daemon's."""
    host = CliHost(tmp_path / "a", env=dict.fromkeys(("API_KEY", "SHARED_SECRET"), ""))
    host.write_config(node="host a")
    result = host.run("up")
    assert result.exit_code == 2
    for start in ("node (NODE_NAME)", "api.shared_secret (SHARED_SECRET)", "api.session_keys"):
        assert f"error: {start}" in result.stderr
    assert sorted(path.name for path in host.folder.iterdir()) == ["config.yaml"]
