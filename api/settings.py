"""The settings of the licence API: the `api:` mapping of config.yaml under the environment.

Owns what each setting means and what is right for it. A variable of the environment, the setting's
name in capitals, beats the file; an empty one counts as unset. Every mistake is reported at once.
No secret has a default, and none may appear in a message, a log or a repr.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

import syncd
from api import jose
from api.addresses import Network

_MISSING = PydanticCustomError("missing", "missing")


def _split(value: object) -> object:
    if not isinstance(value, str):
        return value
    return [item.strip() for item in value.split(",") if item.strip()]


def _base_url(url: str) -> str:
    """Clients append "/verify" to what they are given, so no base URL ends in a slash."""
    if not re.fullmatch(r"https?://[^\s,]*[^\s,/]/*", url):
        raise PydanticCustomError("url", "not a URL")
    return url.rstrip("/")


def _origin(url: str) -> str:
    """Only exact origins: flask-cors would read a wildcard or a bracket as a pattern."""
    if not re.fullmatch(r"https?://[A-Za-z0-9.-]+(:[0-9]+)?/?", url):
        raise PydanticCustomError("origin", "not an origin")
    return url.rstrip("/")


def _mail_address(text: str) -> str:
    if not re.fullmatch(r"[^\r\n]*[^@\s<]+@[^@\s>]+>?", text):
        raise PydanticCustomError("address", "not a mail address")
    return text


def _duration(text: object) -> timedelta:
    found = re.fullmatch("([0-9]+)(ms|s|m|h|d)", str(text).strip())
    if not found:
        raise PydanticCustomError("duration", "not a duration, such as 10s, 12h or 7d")
    unit = _UNITS[found[2]]
    if float(found[1]) > _DURATION_MAX / unit:
        raise PydanticCustomError("duration", "a duration may be 36500d at most")
    return int(found[1]) * unit


def _public_key(jwk: object) -> jose.Key:
    try:
        key = jose.read_key(jwk)
    except ValueError as error:
        raise PydanticCustomError("key", str(error)) from None
    if key.is_private:
        raise PydanticCustomError("key", "it holds the private part, which stays off the hosts")
    return key


_UNITS = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
}
_DURATION_MAX = timedelta(days=36_500)
"""A hundred years, as for syncd's own: now more or less that is still a date."""

Secret = Annotated[str, Field(min_length=1)]
Secrets = Annotated[tuple[Secret, ...], BeforeValidator(_split), Field(min_length=1)]
BaseUrl = Annotated[str, AfterValidator(_base_url)]
BaseUrls = Annotated[tuple[BaseUrl, ...], BeforeValidator(_split)]
MailAddress = Annotated[str, AfterValidator(_mail_address)]
Networks = Annotated[tuple[Network, ...], BeforeValidator(_split)]
Origins = Annotated[tuple[Annotated[str, AfterValidator(_origin)], ...], BeforeValidator(_split)]

Duration = Annotated[timedelta, BeforeValidator(_duration)]
PublicKey = Annotated[jose.Key, BeforeValidator(_public_key)]


class Settings(BaseModel):
    """Hold what the licence API is told by its operator; a description says what is right."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, arbitrary_types_allowed=True
    )

    require_api_key: bool = Field(True, description="It is true or false")
    require_signature: bool = Field(True, description="It is true or false")
    api_key: Secret | None = Field(
        None,
        validate_default=True,
        repr=False,
        description="It is the API key compiled into your clients, "
        "needed unless require_api_key is false",
    )
    shared_secret: Secret = Field(
        repr=False, description="It is the secret compiled into your clients"
    )
    session_keys: Secrets = Field(
        repr=False,
        description="They sign the dashboard's sessions, the first signs and all are accepted; "
        "`syncd keygen` makes one",
    )
    flask_env: Literal["production", "development"] = Field(
        "production", description="development only makes the log more talkative"
    )
    smtp_enabled: bool = Field(False, description="It is true or false")
    smtp_host: str | None = Field(
        None, validate_default=True, description="It is the mail server, needed if smtp_enabled"
    )
    smtp_port: int = Field(587, ge=1, le=65535, description="It is the mail server's port")
    smtp_security: Literal["starttls", "tls", "none"] = Field(
        "starttls", description="It is starttls, tls (from the start, port 465) or none"
    )
    smtp_user: str | None = Field(None, description="It is the name to log in with, if any")
    smtp_password: str | None = Field(
        None, repr=False, description="It is the password to log in with"
    )
    smtp_from: MailAddress | None = Field(
        None,
        validate_default=True,
        description="It is the sender's address, needed if smtp_enabled",
    )
    reset_url: BaseUrl | None = Field(
        None, description="It is the page for a new password, which gets ?token=... added"
    )
    fresh_for: Duration = Field(
        timedelta(seconds=10), description="It is how old data may be to deny on, such as 10s"
    )
    fresh_wait: Duration = Field(
        timedelta(seconds=3), description="It is how long a denial may wait for peers, such as 3s"
    )
    access_log_kept: Duration = Field(
        timedelta(days=90), description="It is how long the access log reaches back, such as 90d"
    )
    trusted_proxies: Networks = Field(
        (),
        description="They are the proxies whose X-Forwarded-For is believed, such as 10.0.0.0/8",
    )
    license_servers: BaseUrls = Field(
        (), description="They are the base URLs of your hosts, such as https://api1.example.com"
    )
    cors_origins: Origins = Field(
        (), description="They are the dashboard's origins, such as https://panel.example.com"
    )
    offline_root: PublicKey | None = Field(
        None,
        description="It is the public key that your clients pin, as JSON; "
        "`python -m api keys root` makes it",
    )
    offline_key: jose.HostKey | None = Field(
        None,
        repr=False,
        description="It is what `python -m api keys make` wrote: the file's content, or its path",
    )
    offline_grace: Duration = Field(
        timedelta(days=7),
        description="It is how long a client may run without any host, such as 7d",
    )

    @field_validator("api_key")
    @classmethod
    def _present_if_required(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None and info.data.get("require_api_key", True):
            raise _MISSING
        return value

    @field_validator("smtp_host", "smtp_from")
    @classmethod
    def _present_if_enabled(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None and info.data.get("smtp_enabled"):
            raise _MISSING
        return value

    @field_validator("offline_key", mode="before")
    @classmethod
    def _certified(cls, value: object, info: ValidationInfo) -> jose.HostKey:
        root = info.data.get("offline_root")
        if root is None:
            raise PydanticCustomError("root", "offline_root (OFFLINE_ROOT) is needed beside it")
        is_path = isinstance(value, str) and not value.lstrip().startswith("{")
        try:
            content = Path(str(value)).read_text(encoding="utf-8") if is_path else value
            return jose.read_host_key(content, root)
        except OSError as error:
            raise PydanticCustomError("file", f"cannot read the file: {error.strerror}") from None
        except ValueError as error:
            raise PydanticCustomError("key", str(error)) from None

    @field_validator("session_keys")
    @classmethod
    def _not_shipped(cls, keys: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        """Whatever is compiled into a client is public, so it must not sign a session."""
        for shipped in ("shared_secret", "api_key"):
            if info.data.get(shipped) in keys:
                raise PydanticCustomError("shipped", f"one is equal to api.{shipped}")
        return keys


def load_settings(section: Mapping[str, Any], environ: Mapping[str, str]) -> Settings:
    """Return the settings of a config's `api:` mapping, overridden by the environment.

    Raises syncd.ConfigError with one problem per mistake.
    """
    overrides = {name: environ.get(name.upper(), "").strip() for name in Settings.model_fields}
    values = {**section, **{name: value for name, value in overrides.items() if value}}
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False, include_input=False)
        raise syncd.ConfigError(problems=[_problem(detail) for detail in details]) from error


def settings_problems(
    section: Mapping[str, Any], environ: Mapping[str, str], config: syncd.Config | None
) -> Sequence[str]:
    """Return the mistakes in the settings, for `syncd up` to report with its own."""
    try:
        settings = load_settings(section, environ)
    except syncd.ConfigError as error:
        return error.problems
    return contradictions(settings, config) if config else []


def contradictions(settings: Settings, config: syncd.Config) -> Sequence[str]:
    """Return what is right by itself and wrong beside the rest of a host's configuration."""
    problems = []
    # Whatever is compiled into a client is public, so it must not sign what hosts tell hosts.
    public = {settings.shared_secret, settings.api_key}
    if any(key.secret.get_secret_value() in public for key in config.sync.keys):
        problems.append(
            "sync.keys (SYNC_KEYS): one is compiled into your clients. `syncd keygen` makes one"
        )
    own = settings.offline_key
    if own and own.host != config.node:
        problems.append(
            f"api.offline_key (OFFLINE_KEY): made for {own.host}, and this host is {config.node}. "
            f"`python -m api keys make {config.node}` makes this host's"
        )
    return problems


def _problem(detail: ErrorDetails) -> str:
    name = str(detail["loc"][0])
    if name not in Settings.model_fields:
        return f"api.{name}: unknown. The settings are {', '.join(sorted(Settings.model_fields))}"
    what = "missing" if detail["type"] == "missing" else detail["msg"]
    return f"api.{name} ({name.upper()}): {what}. {Settings.model_fields[name].description}"
