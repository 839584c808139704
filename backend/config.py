"""The settings: read from the environment or `.env`, checked once, at the start.

This module imports nothing of ours and nothing heavy, so that a wrong setting is reported at once.
"""

import re
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Annotated, Any, Literal, NoReturn, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

MINIMUM_SECRET_BYTES = 32
"""RFC 7518, section 3.2: an HS256 key has at least the 256 bits of the hash."""


class ConfigurationError(Exception):
    """A setting that the service cannot start with. `reason` never holds the setting's value."""

    def __init__(self, variable: str, reason: str) -> None:
        super().__init__(f"{variable}: {reason}")


def _split(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    parts = tuple(part.strip() for part in value.split(",") if part.strip())
    if not parts:
        raise ValueError("must name at least one")
    return parts


def _http_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        usable = parts.scheme in {"http", "https"} and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable or parts.username is not None or parts.query or parts.fragment or not value.isprintable():
        raise ValueError("must be an http or https URL without user, query or fragment")
    return value.rstrip("/")


def _origin(value: str) -> str:
    # Browsers send an origin in lower case and without a path (RFC 6454), and a host as punycode.
    if re.fullmatch(r"(?:capacitor|tauri|app|ionic)://[a-z0-9.-]+", value.lower()):
        return value.lower()
    is_pattern = value.startswith("https://*.")
    url = _http_url(value.replace("*.", "", 1) if is_pattern else value)
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.path or "*" in url or (is_pattern and "." not in host):
        raise ValueError("each must be an origin such as https://app.example.com, or https://*.example.com")
    default_port = {"http": ":80", "https": ":443"}[parts.scheme]
    try:
        url = url.replace(host, host.encode("idna").decode()) if not host.isascii() else url
    except UnicodeError:
        raise ValueError("has a host that is none") from None
    url = url.lower().removesuffix(default_port)
    return url.replace("https://", "https://*.", 1) if is_pattern else url


def _header_names(names: tuple[str, ...]) -> tuple[str, ...]:
    if not all(re.fullmatch(r"[A-Za-z0-9-]{1,64}", name) for name in names):
        raise ValueError("each must be the name of a header")
    return names


def _long_enough(value: SecretStr) -> SecretStr:
    if len(value.get_secret_value().encode()) < MINIMUM_SECRET_BYTES:
        raise ValueError(f"must have at least {MINIMUM_SECRET_BYTES} bytes")
    if len(set(value.get_secret_value())) == 1:
        raise ValueError("must not be one character again and again")
    return value


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


CommaSeparated = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
Origins = Annotated[tuple[Annotated[str, AfterValidator(_origin)], ...], NoDecode, BeforeValidator(_split)]
Seconds = Annotated[float, Field(gt=0, le=300, allow_inf_nan=False)]


_PERIODS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}


def _rate(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    number, _, period = value.strip().lower().partition("/")
    if not (number.isascii() and number.isdigit() and 0 < int(number[:9]) < 10**8 and period in _PERIODS):
        raise ValueError("must be a number of requests in a period, such as 300/minute")
    return int(number), _PERIODS[period]


RateLimitText = Annotated[tuple[int, int] | None, NoDecode, BeforeValidator(_rate)]


class Settings(BaseSettings):
    """Every setting of the service; `.env.example` explains each. An empty variable counts as unset."""

    model_config = SettingsConfigDict(
        env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True, hide_input_in_errors=True
    )

    environment: Literal["development", "production"] = "development"

    database_url: SecretStr = SecretStr("sqlite+aiosqlite:///./todo.db")
    database_url_direct: SecretStr | None = None
    database_url_test: SecretStr | None = None
    database_pool_size: Annotated[int, Field(ge=0, le=1000)] = 0
    database_max_overflow: Annotated[int, Field(ge=0, le=1000)] = 10
    database_pool_timeout: Seconds = 5
    database_pool_recycle: Annotated[int, Field(ge=1, le=86_400)] = 240
    database_pool_pre_ping: bool = False
    database_connect_timeout: Seconds = 10
    database_command_timeout: Seconds = 10
    health_db_ttl: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] = 10
    health_db_token: SecretStr | None = None

    better_auth_secret: Annotated[SecretStr, AfterValidator(_long_enough)] | None = None
    better_auth_previous_secret: Annotated[SecretStr, AfterValidator(_long_enough)] | None = None
    better_auth_url: HttpUrl | None = None
    better_auth_issuer: CommaSeparated = ()
    better_auth_jwks_url: HttpUrl | None = None
    api_audience: CommaSeparated = ()

    allowed_origins: Origins = ("http://localhost:3000",)
    allowed_headers: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split), AfterValidator(_header_names)] = ()
    max_concurrent_requests: Annotated[int, Field(ge=1, le=100_000)] = 100
    max_concurrent_requests_per_user: Annotated[int, Field(ge=1, le=100_000)] | None = None
    rate_limit: RateLimitText = None
    max_tasks_per_user: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    trash_days: Annotated[int, Field(ge=0, le=3650)] = 30

    mcp: bool = False
    mcp_token: SecretStr | None = None
    public_url: HttpUrl | None = None

    keep_alive: Annotated[float, Field(gt=0, le=3600)] = 75
    max_connections: Annotated[int, Field(ge=1, le=1_000_000)] | None = None

    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_upper)] = "INFO"
    log_format: Literal["text", "json"] | None = None
    log_requests: Literal["all", "errors", "slow"] = "all"
    log_slow_ms: Annotated[float, Field(ge=0)] = 1000
    log_user_key: SecretStr | None = None
    server_timing: bool = False

    @model_validator(mode="after")
    def _has_a_way_to_verify_tokens(self) -> Self:
        if self.better_auth_secret is None and self.better_auth_url is None:
            raise ValueError("BETTER_AUTH_SECRET or BETTER_AUTH_URL: one of them is required")
        if self.better_auth_previous_secret is not None and self.better_auth_secret is None:
            raise ValueError("BETTER_AUTH_PREVIOUS_SECRET: needs BETTER_AUTH_SECRET, which replaces it")
        if self.better_auth_issuer and self.better_auth_url is None:
            raise ValueError("BETTER_AUTH_ISSUER: needs BETTER_AUTH_URL, whose keys it goes with")
        if self.better_auth_jwks_url is not None and self.better_auth_url is None:
            raise ValueError("BETTER_AUTH_JWKS_URL: needs BETTER_AUTH_URL, which names the tokens' issuer")
        return self

    @model_validator(mode="after")
    def _has_the_agents_library(self) -> Self:
        if self.mcp and find_spec("mcp") is None:
            raise ValueError("MCP: needs the extra: pip install 'todo-backend[mcp]'")
        return self

    @property
    def production(self) -> bool:
        """True where the service faces the world: no `/docs`, JSON logs, no development tokens."""
        return self.environment == "production"

    @property
    def user_concurrency(self) -> int:
        """How many requests of one user may be under way: as set, or a tenth of the places, but two at least."""
        return self.max_concurrent_requests_per_user or max(2, self.max_concurrent_requests // 10)

    @property
    def json_logs(self) -> bool:
        """The log format that applies: `LOG_FORMAT`, or what the environment calls for."""
        return self.production if self.log_format is None else self.log_format == "json"


def load_settings(*checks: Callable[[Settings], object]) -> Settings:
    """Read and check the settings; where one is wrong, print one line that names it and exit with status 1.

    `checks` are further looks at the settings by modules that this one must not know; they raise `ConfigurationError`.
    """
    try:
        settings = Settings()
        for check in checks:
            check(settings)
    except ValidationError as error:
        _exit("; ".join(_describe(dict(detail)) for detail in error.errors(include_input=False, include_url=False)))
    except ConfigurationError as error:
        _exit(str(error))
    except UnicodeDecodeError:
        _exit(".env: must be UTF-8")
    return settings


def _describe(error: dict[str, Any]) -> str:
    location: tuple[Any, ...] = error["loc"]
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{str(location[0]).upper()}: {message}" if location else message


def _exit(reason: str) -> NoReturn:
    sys.exit(f"todo-backend: wrong setting: {reason}")
