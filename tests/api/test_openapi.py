"""/openapi.json against the code: its routes, its parameters, and what it really answers."""

from __future__ import annotations

import re
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from licence_site import API_KEY, DEVICE, Mailbox, MakeSite, Site, sign
from schemathesis.checks import CHECKS
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from api.verify import TELEMETRY

EXAMPLES = 6
POSITIVE = schemathesis.GenerationMode.POSITIVE
HELD: list[Any] = [
    CHECKS.get_one("not_a_server_error"),
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.fixture
def described(site: Site) -> dict[str, Any]:
    """Return the description as it is served."""
    served: dict[str, Any] = site.get("/openapi.json").get_json()
    return served


def test_every_route_is_described_and_no_other(site: Site, described: dict[str, Any]) -> None:
    """Paths and methods are those of the application, but for the peers' endpoint."""
    routes = {
        (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in site.app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if not rule.rule.startswith("/sync/v1/")
    }
    paths = {(path, method) for path, methods in described["paths"].items() for method in methods}
    assert paths == routes


def test_what_needs_a_session_says_so(site: Site, described: dict[str, Any]) -> None:
    """An operation is described as secured exactly where it answers 401 to a stranger."""
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            url = path.replace("{device_id}", DEVICE)
            response = site.app.test_client().open(url, method=method.upper(), json={})
            is_secured = response.status_code == 401 and path != "/admin/login"
            assert bool(operation.get("security")) == is_secured, path


def test_the_telemetry_is_described(described: dict[str, Any]) -> None:
    """The query of /verify has every field that the log keeps."""
    parameters = described["paths"]["/verify"]["get"]["parameters"]
    assert set(TELEMETRY) <= {parameter.get("name") for parameter in parameters}


def test_every_operation_answers_as_described(make_site: MakeSite, mailbox: Mailbox) -> None:
    """Whatever schemathesis sends, right or wrong, as a stranger, a user or an administrator."""
    site = make_site(mailbox.settings)
    site.add_admin("chefe")
    site.add_user("maria")
    site.add_device(created_by="maria")
    tokens = [site.dashboard(name).token for name in ("chefe", "maria")]
    schema = schemathesis.openapi.from_wsgi("/openapi.json", site.app)
    called = 0
    for found in schema.get_all_operations():
        assert isinstance(found, Ok), found
        operation = found.ok()
        if operation.path == "/admin/logout":
            continue  # it would end the session that the others are called with
        takes_input = {"parameters", "requestBody"} & operation.definition.raw.keys()
        for mode in schemathesis.GenerationMode if takes_input else [POSITIVE]:
            called += _call(operation, mode, tokens)
    assert called > 100


def _call(operation: Any, mode: schemathesis.GenerationMode, tokens: list[str]) -> int:
    """Call an operation with what a mode generates, in turn as each caller; return how often."""
    callers = [None, *tokens]
    called = 0
    strategy = operation.as_strategy(generation_mode=mode)

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=strategy)
    def ask(case: Any) -> None:
        nonlocal called
        token = callers[called % len(callers)]
        called += 1
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        case.call_and_validate(headers=headers, checks=HELD)

    ask()
    return called


def test_a_real_question_is_answered_as_described(site: Site, described: dict[str, Any]) -> None:
    """What random values never reach: a licence that is good."""
    site.add_device()
    ts = f"{site.clock.now:%Y%m%d%H%M%S}"
    schema = schemathesis.openapi.from_wsgi("/openapi.json", site.app)
    query = {"id": DEVICE, "version": "1", "ts": ts, "sig": sign(DEVICE, "1", ts)}
    case = schema["/verify"]["GET"].Case(query=query | {"api_key": API_KEY})
    response = case.call()
    assert response.json()["allow"] is True
    case.validate_response(response, checks=HELD)
    assert described["openapi"].startswith("3.1")
