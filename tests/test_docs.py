"""The documents against the program: what they name exists, and what exists is named.

Tables in the documents are read as tables, code as code. The worked example of docs/protocol.md is
made anew by the code, and the README's example is run.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import hmac
import io
import itertools
import re
import sqlite3
import struct
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from unittest import mock

import click
import msgspec
import pytest
import zstandard
from pydantic import BaseModel
from test_layers import of_syncd

import syncd
from api.__main__ import main as api_commands
from api.settings import Settings
from syncd import (
    bundle,
    bundlefile,
    codec,
    daemon,
    errors,
    extraction,
    nonces,
    packing,
    peers,
    schema,
    signing,
    status,
    wire,
)
from syncd.cli import cli
from syncd.config import ENVIRONMENT, Config, duration_ms
from syncd.config import Key as ConfigKey
from syncd.signing import FileSignature, Keyring

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
FILES = {file.name: file for file in DOCUMENTS}
TEXTS = {name: file.read_text(encoding="utf-8") for name, file in FILES.items()}
README, OPERATIONS = TEXTS["README.md"], TEXTS["operations.md"]
PROTOCOL, ARCHITECTURE = TEXTS["protocol.md"], TEXTS["architecture.md"]

FENCE = re.compile(r"^( *)```([^\n`]*)\n(.*?)^\1```$", re.M | re.S)
SPAN = re.compile(r"`([^`\n]+)`")


def blocks(text: str) -> list[tuple[str, str]]:
    """Return a document's fenced blocks: what stands behind the fence, and the content."""
    return [(found[2].strip(), found[3]) for found in FENCE.finditer(text)]


def block(text: str, kind: str) -> str:
    """Return the content of a document's one block of a kind."""
    (found,) = [content for name, content in blocks(text) if name == kind]
    return found


def code(text: str) -> list[str]:
    """Return everything a document sets as code: spans, and the lines of its blocks."""
    lines = [line for _, content in blocks(text) for line in content.splitlines()]
    return [*SPAN.findall(FENCE.sub("", text)), *lines]


def section(text: str, heading: str) -> str:
    """Return what stands below a heading, up to the next of its level or above."""
    level = len(re.match("#+", heading)[0])  # type: ignore[index]
    body = text.partition(f"\n{heading}\n")[2]
    assert body, f"there is no {heading}"
    return re.split(rf"^#{{1,{level}}} ", body, maxsplit=1, flags=re.M)[0]


def table(text: str, first: str) -> list[list[str]]:
    """Return the rows of the table whose first column has a title, cells without their code marks.

    A mark is only taken off a cell that is one span.
    """
    lines = iter(text.splitlines())
    header = next((line for line in lines if line.strip().startswith(f"| {first} |")), None)
    assert header is not None, f"there is no table of {first}"
    rows = itertools.takewhile(lambda line: line.strip().startswith("|"), lines)
    return [
        [re.sub(r"^`([^`]*)`$", r"\1", cell.strip()) for cell in row.strip()[1:-1].split("|")]
        for row in itertools.islice(rows, 1, None)
    ]


def error_classes(
    root: type[errors.SyncError] = errors.SyncError,
) -> Iterator[type[errors.SyncError]]:
    """Yield every error of the tree."""
    yield root
    for child in root.__subclasses__():
        yield from error_classes(child)


def config_keys(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, bool]]:
    """Yield the paths of a model's keys, each with whether it must be given.

    A key inside a list has [] in its path, one inside a mapping NAME.
    """
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        inner = list(models_in(field.annotation, ""))
        if not any(container == "" for container, _ in inner):
            yield path, field.is_required()
        for container, section_model in inner:
            yield from config_keys(section_model, f"{path}{container}.")


def models_in(annotation: object, container: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield the models in an annotation, each with what its container adds to a path."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield container, annotation
        return
    containers: dict[object, str] = {tuple: "[]", dict: ".NAME"}
    added = containers.get(typing.get_origin(annotation), "")
    for argument in typing.get_args(annotation):
        yield from models_in(argument, container + added)


class TestErrors:
    """Every error code has its line in docs/operations.md."""

    ROWS = table(OPERATIONS, "code")

    def test_every_code_is_explained_once_and_no_other(self) -> None:
        """The table has the codes of the tree."""
        documented = [row[0] for row in self.ROWS]
        assert sorted(documented) == sorted(error.code for error in error_classes())

    def test_exit_codes_and_retries_are_those_of_the_code(self) -> None:
        """What an operator is told about an error is what the program does."""
        by_code = {error.code: error for error in error_classes()}
        for code_, exit_code, retry, meaning in self.ROWS:
            error = by_code[code_]
            assert (int(exit_code), retry == "yes") == (error.exit_code, error.retryable), code_
            assert retry in ("yes", "no")
            assert meaning


def all_commands() -> dict[str, click.Command]:
    """Return the commands by name, those of a group behind the group's."""
    found: dict[str, click.Command] = dict(cli.commands)
    for group, command in cli.commands.items():
        if isinstance(command, click.Group):
            if not command.invoke_without_command:
                del found[group]
            found |= {f"{group} {name}": one for name, one in command.commands.items()}
    return found


def command_name(usage: str) -> str:
    """Return the words of a usage line that name the command."""
    return " ".join(word for word in usage.split()[1:] if word.islower())


class TestCommands:
    """The commands and their options."""

    @pytest.mark.parametrize("text", [README, OPERATIONS], ids=["README", "operations"])
    def test_every_command_is_listed_once_and_no_other(self, text: str) -> None:
        """Both tables have the commands of the program."""
        listed = [command_name(row[0]) for row in table(text, "command")]
        assert sorted(listed) == sorted(all_commands())

    def test_every_option_is_listed_and_no_other(self) -> None:
        """The table of docs/operations.md has each command's options and arguments."""
        for usage, options, _ in table(OPERATIONS, "command"):
            name = command_name(usage)
            arguments = usage.split()[1 + len(name.split()) :]
            params = all_commands()[name].params
            assert arguments == [
                param.make_metavar(click.Context(cli))
                for param in params
                if isinstance(param, click.Argument)
            ]
            assert sorted(re.findall(r"--[a-z-]+", options)) == sorted(long_options(params)), name

    def test_options_of_the_program_itself_are_named(self) -> None:
        """So are the options before the command."""
        named = set(re.findall(r"--?[a-z-]+", section(OPERATIONS, "## Commands").split("\n|")[0]))
        assert named == {
            *itertools.chain.from_iterable(param.opts for param in cli.params),
            *cli.context_settings["help_option_names"],
        }

    @pytest.mark.parametrize("name", TEXTS)
    def test_command_lines_exist(self, name: str) -> None:
        """Wherever a document shows a command, it has that name and those options."""
        for line in code(TEXTS[name]):
            for command, rest in re.findall(r"(?:^|[(;&\s])syncd ([a-z]+)([^;&|#)]*)", line):
                if "import syncd" in line:
                    continue
                assert command in cli.commands, line
                one = cli.commands[command]
                if isinstance(one, click.Group):
                    one = one.commands.get(rest.split()[0] if rest.split() else "", one)
                used = set(re.findall(r"--[a-z-]+", rest)) - {"--help"}
                assert used <= set(long_options(one.params)), line

    def test_commands_of_the_api_exist(self) -> None:
        """So do those of the licence API, all of them."""
        shown = {
            found for text in TEXTS.values() for found in re.findall(r"-m api ([a-z-]+)", text)
        }
        assert shown == set(api_commands.commands)
        assert all(
            option in OPERATIONS
            for command in api_commands.commands.values()
            for option in long_options(command.params)
        )


def long_options(params: list[click.Parameter]) -> list[str]:
    """Return the long options among a command's parameters."""
    return [opt for param in params for opt in param.opts if opt.startswith("--")]


class TestConfiguration:
    """The keys, the variables and the defaults."""

    ROWS = table(section(OPERATIONS, "## Configuration"), "key")
    API_ROWS = table(section(OPERATIONS, "## Configuration").partition("The licence API")[2], "key")

    def test_every_key_is_listed_once_and_no_other(self) -> None:
        """The table has the keys of the models, lists and mappings included."""
        assert [row[0] for row in self.ROWS] == [key for key, _ in config_keys(Config)]

    def test_every_variable_stands_beside_its_key(self) -> None:
        """The table pairs keys and variables as the program does."""
        listed = {tuple(row[0].split(".")): row[1] for row in self.ROWS if row[1]}
        assert listed == ENVIRONMENT

    def test_defaults_are_those_of_the_code(self) -> None:
        """A default in the table is what an empty configuration gets."""
        config = Config.model_validate(
            {
                "node": "a",
                "database": "a.db",
                "tables": {"notes": {}},
                "sync": {"keys": [{"id": "k1", "secret": "x" * 32}]},
                "peers": [{"name": "b", "url": "http://b"}],
            }
        )
        for key, _, default, _ in self.ROWS:
            if default in ("", "none", "the PRIMARY KEY"):
                continue
            value: object = config
            for name in key.replace("[]", ".0").split("."):
                value = value[0] if isinstance(value, tuple) else getattr(value, name)
            is_duration = re.fullmatch(r"\d+[a-z]+", default)
            expected = str(duration_ms(default)) if is_duration else default
            assert str(value).lower() == expected.lower(), key

    def test_keys_that_must_be_given_have_no_default_in_the_table(self) -> None:
        """A key without a default has none in the table, and any other has one."""
        required = dict(config_keys(Config))
        for key, _, default, _ in self.ROWS:
            assert (default == "") == (required[key] or key == "api"), key

    def test_settings_of_the_api_are_listed(self) -> None:
        """The licence API's settings have their lines too, each with its variable."""
        listed = [(row[0], row[1]) for row in self.API_ROWS]
        assert sorted(listed) == sorted(
            (f"api.{name}", name.upper()) for name in Settings.model_fields
        )

    @pytest.mark.parametrize("name", TEXTS)
    def test_variables_named_anywhere_exist(self, name: str) -> None:
        """No document names a variable that the program does not read."""
        known = {*ENVIRONMENT.values(), *map(str.upper, Settings.model_fields), "SYNCD_CONFIG"}
        known.add("SOLUCAO_COM_REDUNDANCIA")  # the client's file
        found = {
            word
            for line in code(TEXTS[name])
            for word in re.findall(r"(?<![\w<])[A-Z]+(?:_[A-Z]+)+\b|\bPORT\b", line)
        }
        assert found <= known


class TestNames:
    """Other names in the documents."""

    def test_names_in_the_operators_documents_exist(self) -> None:
        """A name written like an error code, a key or a table is one."""
        known = {error.code for error in error_classes()}
        known |= {key.rpartition(".")[2] for key, _ in config_keys(Config)}
        known |= Settings.model_fields.keys()
        known |= {field.name for field in dataclasses.fields(status.Status)}
        known |= {field.name for field in dataclasses.fields(peers.PeerState)}
        known |= set(re.findall(r"CREATE TABLE (\w+)", schema._BOOKKEEPING))
        known |= set(re.findall(r"^    (\w+)[ ,]", schema._BOOKKEEPING, re.M))
        for text in (README, OPERATIONS):
            spans = SPAN.findall(FENCE.sub("", text))
            assert {span for span in spans if re.fullmatch("[a-z]+(_[a-z]+)+", span)} <= known

    def test_the_sql_of_the_operators_documents_runs(self, tmp_path: Path) -> None:
        """The queries have their tables, and a rebuilt table can be enrolled again."""
        host = make_replica(tmp_path)
        scripts = re.findall(r'sqlite3 app\.db "((?:SELECT|BEGIN)[^"]*)"', OPERATIONS)
        assert len(scripts) == 1
        connection = sqlite3.connect(tmp_path / "app.db")
        for script in scripts:
            connection.executescript(script)
        connection.close()
        assert [(one.table, one.state) for one in host.enrol()] == [("notes", "changed")]
        host.close()

    def test_every_module_stands_below_what_it_imports(self) -> None:
        """The layout in docs/architecture.md has every module, in an order that imports keep."""
        lines = block(ARCHITECTURE, "modules").splitlines()
        order = [word for line in lines for word in line.split("   ")[0].split()]
        present = {file.stem for file in (ROOT / "syncd").glob("*.py")}
        assert sorted(order) == sorted(present - {"__init__", "__main__"})
        for number, module in enumerate(order):
            assert of_syncd(ROOT / "syncd" / f"{module}.py") <= set(order[:number]), module

    def test_the_changelog_starts_with_this_version(self) -> None:
        """The newest version in it is the package's."""
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        newest = re.search(r"^## \[([^\]]+)\] - \d{4}-\d\d-\d\d$", TEXTS["CHANGELOG.md"], re.M)
        assert newest is not None
        assert newest[1] == project["version"]

    @pytest.mark.parametrize("name", TEXTS)
    def test_links_lead_somewhere(self, name: str) -> None:
        """Every link between documents has its file and its heading."""
        for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", TEXTS[name])):
            if target.startswith("https://"):
                continue
            path, _, anchor = target.partition("#")
            file = (FILES[name].parent / path).resolve() if path else FILES[name]
            assert file.is_file(), target
            assert not anchor or anchor in anchors(file.read_text(encoding="utf-8")), target

    def test_the_glossary_has_one_line_a_word(self) -> None:
        """No word is explained twice."""
        words = [word for row in table(TEXTS["glossary.md"], "word") for word in row[0].split(", ")]
        assert len(words) == len(set(words))


def anchors(text: str) -> set[str]:
    """Return the anchors of a document's headings."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.M)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


class TestProtocol:
    """docs/protocol.md against the code's types and bounds."""

    @pytest.mark.parametrize(
        "kind",
        [
            wire.PullRequest,
            wire.PushAnswer,
            wire.StatusRequest,
            wire.StatusAnswer,
            wire.ErrorAnswer,
            wire.CompareRequest,
            wire.Buckets,
            wire.CompareAnswer,
            wire.BucketsAnswer,
            wire.RowsRequest,
            bundle.Header,
            bundle.Withdrawal,
            bundle.Frame,
            bundle.Section,
            bundle.Column,
            codec.End,
        ],
        ids=lambda kind: str(kind.__name__),
    )
    def test_messages_have_the_fields_of_the_code(self, kind: type[msgspec.Struct]) -> None:
        """Every field of a message has its line, in the code's order."""
        listed = [row[0] for row in table(section(PROTOCOL, f"### {kind.__name__}"), "field")]
        assert listed == [field.name for field in msgspec.structs.fields(kind)]

    def test_a_trailer_has_the_fields_of_the_code(self) -> None:
        """So have the fields behind a file."""
        listed = [row[0] for row in table(section(PROTOCOL, "### Files"), "field")]
        assert listed == [field.name for field in dataclasses.fields(FileSignature)]

    def test_every_message_is_described(self) -> None:
        """No message of the wire is left out; a private struct is a view of one."""
        described = set(re.findall(r"^### (\w+)$", PROTOCOL, re.M))
        structs = {
            value.__name__
            for module in (wire, bundle)
            for value in vars(module).values()
            if isinstance(value, type)
            and issubclass(value, msgspec.Struct)
            and value.__module__ == module.__name__
            and not value.__name__.startswith("_")
        }
        assert structs <= described

    def test_bounds_are_those_of_the_code(self) -> None:
        """The numbers are the constants."""
        bounds = {what: int(bound.split()[0]) for what, bound in table(PROTOCOL, "what")}
        assert bounds == {
            "body of a request": wire.BODY_BYTES_MAX - 1,
            "body of an answer": wire.BODY_BYTES_MAX,
            "payload of a header record": codec._HEADER_BYTES_MAX,
            "payload of any other record": codec.RECORD_BYTES_MAX,
            "a frame, unpacked": codec.FRAME_BYTES_MAX,
            "MessagePack objects in one message": packing.OBJECTS_MAX,
            "a file's trailer": bundlefile._TRAILER_BYTES_MAX,
        }
        entries = extraction.FRAME_ENTRIES
        prose = f"{codec.FRAME_BYTES_TARGET} bytes of values and {entries} entries"
        assert prose in PROTOCOL

    def test_endpoints_and_media_type_are_those_of_the_code(self) -> None:
        """The paths are the paths."""
        paths = [row[0] for row in table(PROTOCOL, "path")]
        assert paths == [
            *(wire.PULL, wire.PUSH, wire.STATUS),
            *(wire.NUDGE, wire.COMPARE, wire.ROWS),
        ]
        assert f"media type `{wire.MEDIA_TYPE}`" in PROTOCOL

    def test_signatures_cover_what_the_code_covers(self) -> None:
        """Components and lifetime are those of the signing module."""
        rows = {row[0]: row[1:] for row in table(section(PROTOCOL, "## Signatures"), "part")}
        covered = [signing._REQUEST_PARTS, signing._RESPONSE_PARTS, signing._FILE_PARTS]
        assert rows["covered components, in this order"] == [
            " ".join(part if part.startswith('"') else f'"{part}"' for part in parts)
            for parts in covered
        ]
        assert rows["expires"][0] == f"`created` + {signing.LIFETIME_S}"


ORIGIN = bytes.fromhex("a0" * 16)
NOW_MS = 1_767_225_600_000
HLC = NOW_MS << 16
KEY = ConfigKey.model_validate({"id": "k1", "secret": "0123456789abcdef0123456789abcdef"})
HEADER = bundle.Header(
    origin=ORIGIN, node="host-a", created_ms=NOW_MS, vector={ORIGIN: 3}, since={}
)
BIRTHS = bundle.Section(
    table="notes",
    key=["name"],
    columns=["text"],
    existence=bundle.ALIVE,
    origins=[0, 0],
    seqs=[1, 2],
    hlcs=[HLC, HLC + 1],
    keys=[bundle.Column(["x", "y"])],
    values=[bundle.Column(["hello", b"\xff"], [1])],
)
DEATH = bundle.Section(
    table="notes",
    key=["name"],
    columns=[],
    existence=bundle.DEAD,
    origins=[0],
    seqs=[3],
    hlcs=[HLC + 2],
    keys=[bundle.Column(["z"])],
    values=[],
)
FRAME = bundle.Frame(
    origins=[ORIGIN],
    nodes=["host-a"],
    sections=[BIRTHS, DEATH],
    after=0,
    position=3,
    claim={ORIGIN: 3},
)
PULL = wire.PullRequest(node="host-b", vector={}, server=b"", after=0)


def hexed(name: str, **parts: bytes) -> bytes:
    """Return the bytes of a hex block of docs/protocol.md; <name> stands for another's bytes."""
    lines = block(PROTOCOL, f"hex {name}").splitlines()
    text = " ".join(line.partition("#")[0] for line in lines)
    for part, content in parts.items():
        text = text.replace(f"<{part}>", content.hex())
    return bytes.fromhex(text)


def fields(name: str) -> dict[str, str]:
    """Return the header fields of a block of docs/protocol.md."""
    lines = block(PROTOCOL, f"text {name}").splitlines()
    return dict(line.split(": ", 1) for line in lines)


def example_keyring() -> Keyring:
    """Return the keyring of the worked example, under its clock."""
    return Keyring([KEY], skew_s=300, now_s=lambda: NOW_MS / 1000)


def signed(base: str) -> str:
    """Sign a signature base of docs/protocol.md without the code's help."""
    text = block(PROTOCOL, f"text {base}").removesuffix("\n")
    mac = hmac.new(KEY.secret.get_secret_value().encode(), text.encode(), hashlib.sha256)
    return f"syncd=:{base64.b64encode(mac.digest()).decode()}:"


class TestWorkedExample:
    """Every byte of the worked example, made anew."""

    PACKED = hexed("packed")
    BUNDLE = hexed("bundle", header=hexed("header"), packed=PACKED, end=hexed("end"))

    def test_payloads_are_what_the_code_encodes(self) -> None:
        """Header, frame, end and pull request are encoded into the documented bytes."""
        assert packing.encode(HEADER) == hexed("header")
        assert zstandard.ZstdDecompressor().decompress(codec.compress(FRAME)) == hexed("frame")
        assert packing.encode(codec.End(1)) == hexed("end")
        assert packing.encode(PULL) == hexed("pull")

    def test_the_packed_frame_unpacks_to_the_frame(self) -> None:
        """The packed bytes hold the documented frame; another zstd may pack it into others."""
        assert zstandard.ZstdDecompressor().decompress(self.PACKED) == hexed("frame")
        assert codec.decompress(self.PACKED) == FRAME

    def test_the_records_are_what_the_code_writes(self) -> None:
        """Magic and records are laid out as documented, around whatever zstd made of the frame."""
        stream = io.BytesIO()
        codec.write(stream, HEADER, [FRAME])
        packed = codec.compress(FRAME)
        length = struct.pack(">I", len(self.PACKED))
        expected = self.BUNDLE.replace(
            length + self.PACKED, struct.pack(">I", len(packed)) + packed
        )
        assert stream.getvalue() == expected
        assert list(codec.Reader(io.BytesIO(self.BUNDLE))) == [FRAME]

    def test_the_trailer_signs_the_file(self, tmp_path: Path) -> None:
        """The code makes the documented trailer, and takes the documented file."""
        trailer = example_keyring().sign_file(hashlib.sha256(self.BUNDLE).digest())
        assert packing.encode(trailer) == hexed("trailer")
        file = tmp_path / "example.bundle"
        file.write_bytes(self.BUNDLE + hexed("trailer"))
        with bundlefile.opened(file, example_keyring()) as reader:
            assert (reader.header, list(reader)) == (HEADER, [FRAME])

    def test_the_request_is_signed_as_documented(self) -> None:
        """The code makes the documented fields; the documented base gives the same signature."""
        request = self._request()
        assert request.headers == fields("request-fields")
        assert signed("request-base") == fields("request-fields")["Signature"]

    def test_the_answer_is_signed_as_documented(self) -> None:
        """So for the answer, which carries the request's signature in its own."""
        response = signing.Response(200, {}, self._request())
        example_keyring().sign_response(response, self.BUNDLE)
        assert response.headers == fields("response-fields")
        assert signed("response-base") == fields("response-fields")["Signature"]

    def _request(self) -> signing.Request:
        request = signing.Request("POST", f"http://host{wire.PULL}", {})
        nonce = "AAECAwQFBgcICQoLDA0ODw"
        with mock.patch("syncd.signing.secrets.token_urlsafe", return_value=nonce):
            example_keyring().sign_request(request, hexed("pull"))
        return request


class TestReadme:
    """The README's example, for real but for the network."""

    def test_the_configuration_loads(self, tmp_path: Path) -> None:
        """The example is complete once the key is in the environment."""
        config = self._config(tmp_path, {})
        assert (config.node, list(config.tables), config.serve.app) == (
            "host-a",
            ["notes"],
            "app:app",
        )

    def test_two_hosts_of_the_example_show_each_others_rows(self, tmp_path: Path) -> None:
        """What is written through one app, and past the other, shows in both."""
        a = self._config(tmp_path, {"DB_PATH": str(tmp_path / "a.db")})
        b = self._config(tmp_path, {"DB_PATH": str(tmp_path / "b.db"), "NODE_NAME": "host-b"})
        apps = [self._app(config) for config in (a, b)]
        hosts = [syncd.Replica(config) for config in (a, b)]
        for host in hosts:
            host.enrol()
        apps[0].app.test_client().put("/notes/x", data="hello")
        apps[1].run("INSERT INTO notes VALUES ('y', 'from the shell')")
        for receiver, sender in (hosts, hosts[::-1]):
            header, frames = sender.frames_since(receiver.vector())
            for frame in frames:
                receiver.merge(header, frame)
        for app in apps:
            assert app.app.test_client().get("/notes").get_json() == {
                "x": "hello",
                "y": "from the shell",
            }

    def test_the_short_form_is_the_example_in_short(self) -> None:
        """The two lines for a user's own app mount what the whole example mounts."""
        short, _ = [content for kind, content in blocks(README) if kind == "python"]
        compile(short, "README.md", "exec")
        for call in ("syncd.blueprint", "syncd.Replica", "syncd.load_config", "register_blueprint"):
            assert short.count(call) == 1

    def _config(self, folder: Path, environ: Mapping[str, str]) -> syncd.Config:
        file = folder / "config.yaml"
        file.write_text(block(README, "yaml"), encoding="utf-8")
        secrets = {"SYNC_KEYS": "k1:" + "x" * 40}
        return syncd.load_config(file, {**secrets, **environ})

    def _app(self, config: syncd.Config) -> types.ModuleType:
        _, example = [content for kind, content in blocks(README) if kind == "python"]
        module = types.ModuleType("readme_app")
        with mock.patch.object(syncd, "load_config", return_value=config):
            exec(compile(example, "README.md", "exec"), vars(module))
        return module


def make_replica(folder: Path) -> syncd.Replica:
    """Make app.db with one table and enrol it."""
    connection = sqlite3.connect(folder / "app.db")
    connection.execute("CREATE TABLE notes (name TEXT PRIMARY KEY, text TEXT)")
    connection.close()
    values = {
        "node": "host-a",
        "database": folder / "app.db",
        "tables": {"notes": {}},
        "sync": {"keys": [{"id": "k1", "secret": "x" * 32}]},
    }
    host = syncd.Replica(Config.model_validate(values))
    host.enrol()
    return host


def test_files_beside_the_database_are_those_that_are_made(tmp_path: Path) -> None:
    """What docs/operations.md says stands beside a database does, and nothing else does."""
    database = tmp_path / "app.db"
    host = make_replica(tmp_path)
    nonces.Nonces(database).use("k1", "n", now_s=0, expires_s=1)
    with daemon._lock(database, "host-a"), sqlite3.connect(database) as connection:
        connection.execute("INSERT INTO notes VALUES ('x', 'y')")
        made = {file.name for file in tmp_path.glob("app.db-*")}
    connection.close()
    host.close()
    rows = table(section(OPERATIONS, "## Files beside the database"), "file")
    documented = {name for row in rows for name in re.findall(r"<database>([\w.-]+)", row[0])}
    of_the_sidecar = {"app.db-syncd-wal", "app.db-syncd-shm"}
    assert made - of_the_sidecar == {f"app.db{suffix}" for suffix in documented}
