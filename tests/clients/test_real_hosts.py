"""The guide's tests with each edition against real hosts: `syncd up`, two of them, in sync.

The hosts' keys are made by `python -m api keys`, so what the clients check here is what the API
signs. A server "goes down" for one client by the end of the relay through which it reaches it.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from processes.live_hosts import Cluster, Link, LiveHost, eventually

from clients.editions import Installed

HOSTS = ("host-a", "host-b")
HEARD_WITHIN_S = 30

pytestmark = pytest.mark.processes


@dataclass
class Site:
    """Two hosts with keys, an administrator's session, and the folder of the vendor's keys."""

    cluster: Cluster
    keys: Path
    root: tuple[str, str]
    token: str

    @property
    def first(self) -> LiveHost:
        return self.cluster[HOSTS[0]]

    def licence(self, **columns: str) -> str:
        """Create a licence; return its device's id when all hosts know it."""
        device_id = f"device-of-a-test-{next(_numbers)}"
        self.first.create(self.token, device_id, **columns)
        self.cluster.wait_until_equal(device_id)
        return device_id


_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Make keys as docs/migration.md says, and bring up two hosts that have them."""
    folder = tmp_path_factory.mktemp("site")
    cluster = Cluster(folder, HOSTS)
    keys, first = folder / "keys", cluster[HOSTS[0]]
    keys.mkdir()
    printed = first.command("-m", "api", "keys", "root", str(keys / "root.json"))
    public = re.search("OFFLINE_ROOT=(.*)", printed)
    assert public is not None
    for name in HOSTS:
        made = ["--root", str(keys / "root.json"), "--out", str(keys / f"{name}.json")]
        first.command("-m", "api", "keys", "make", name, *made)
        content = (keys / f"{name}.json").read_text(encoding="utf-8")
        cluster[name].env |= {"OFFLINE_ROOT": public[1], "OFFLINE_KEY": content}
    try:
        cluster.start()
        root = json.loads(public[1])
        yield Site(cluster, keys, (root["x"], root["y"]), first.login(cluster.password))
    finally:
        cluster.destroy()


@pytest.fixture
def roads(site: Site) -> Iterator[dict[str, Link]]:
    """Lay a relay to each host, for one client."""
    laid = {name: Link(site.cluster[name].port) for name in HOSTS}
    yield laid
    for road in laid.values():
        road.close()


Install = Callable[[str], Installed]


@pytest.fixture
def install(client: Installed, site: Site, roads: dict[str, Link]) -> Install:
    """Configure the client for a device, with the root key pinned."""
    servers = [road.url for road in roads.values()]
    return lambda device_id: client.configure(
        *servers, vendor=None, pinned=site.root, device_id=device_id
    )


def test_the_guide_s_three_tests(install: Install, site: Site, roads: dict[str, Link]) -> None:
    """First server up; first down; all down: the program runs, and each log file says why."""
    client = install(site.licence(license_type="anual", owner_name="Ana"))
    first, second = (f"servidor {n} ({road.url})" for n, road in enumerate(roads.values(), 1))

    outcome = client.check()
    assert (outcome.allow, outcome.status, outcome.features) == (True, "online", ("core",))
    assert [line[1:] for line in client.used] == [
        [first, "permitido", "Licença ativa.", "é o principal"]
    ]
    assert client.failover == []

    roads["host-a"].close()
    assert client.check().status == "online"
    assert client.used[-1][1:3] == [second, "permitido"]
    assert [(line[1], line[3]) for line in client.failover] == [(first, f"próximo: {second}")]

    roads["host-b"].close()
    assert client.offline == []
    outcome = client.check()
    assert (outcome.allow, outcome.status, outcome.features) == (True, "offline", ("core",))
    assert client.offline[-1][1] == "modo offline ativado"


def test_block_on_one_host_is_final_everywhere(
    install: Install, site: Site, roads: dict[str, Link]
) -> None:
    """The other host signs the denial, and no offline mode helps."""
    device_id = site.licence()
    client = install(device_id)
    assert client.check().allow
    path = f"/admin/devices/{device_id}/deactivate"
    site.first.call(site.token, "POST", path, action="block")
    site.cluster.wait_until_equal(device_id)
    roads["host-a"].close()
    outcome = client.check()
    assert (outcome.allow, outcome.status) == (False, "denied")
    assert client.used[-1][2:4] == ["negado", "Licença bloqueada."]
    roads["host-b"].close()
    assert client.check().status == "unavailable"


def test_unknown_device_is_denied_with_a_signature(install: Install) -> None:
    """A host that is certain decides alone."""
    client = install("a-device-nobody-registered")
    outcome = client.check()
    assert (outcome.status, outcome.message) == ("denied", "ID não registrado.")
    assert client.failover == []


def test_clients_without_keys_work_as_deployed_ones_do(
    client: Installed, site: Site, roads: dict[str, Link]
) -> None:
    """The same hosts serve a client that pins nothing."""
    servers = [road.url for road in roads.values()]
    client.configure(*servers, vendor=None, device_id=site.licence(license_type="mensal"))
    roads["host-a"].close()
    assert client.check().status == "online"


@pytest.fixture(scope="module")
def revoked(site: Site) -> None:
    """Revoke the first host's key, on the other; return when both have heard of it."""
    kid = json.loads((site.keys / "host-a.json").read_text(encoding="utf-8"))["kid"]
    listed = str(site.keys / "revoked.jws")
    root = str(site.keys / "root.json")
    site.first.command("-m", "api", "keys", "revoke", kid, "--root", root, "--list", listed)
    site.cluster["host-b"].command("-m", "api", "keys", "publish", listed)
    eventually(lambda: not any(kid in _valid_keys(site.cluster[h]) for h in HOSTS), HEARD_WITHIN_S)


def _valid_keys(host: LiveHost) -> set[str]:
    answer = requests.get(f"{host.url}/.well-known/jwks.json", timeout=20)
    return {key["kid"] for key in answer.json()["keys"]}


@pytest.mark.usefixtures("revoked")
def test_revoked_host_decides_nothing(install: Install, site: Site, roads: dict[str, Link]) -> None:
    """Clients pass over it, learn of the revocation from the next, and keep that."""
    client = install(site.licence())
    assert client.check().status == "online"
    assert client.used[-1][1].startswith("servidor 2 ")
    assert client.failover[0][2].startswith("permissão sem assinatura")
    assert "revoked" in client.state_file.read_text(encoding="utf-8")
    roads["host-b"].close()
    assert client.check().status == "offline"
