"""The settings: read from the environment or `.env`, checked once, at the start.

This package imports nothing of ours and nothing heavy, so that a wrong setting is reported at once.
"""

import re
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from backend.config.sources import ConfigurationError, EnvFile, holds_a_secret, read_secret_files
from backend.config.values import (
    BaseUrl,
    Environment,
    HeaderNames,
    HttpUrl,
    LogFormat,
    LogLevel,
    LogRequests,
    Names,
    Origins,
    RateLimit,
    RootPath,
    Seconds,
    Secret,
    SigningSecret,
    is_loopback,
    is_plain,
    is_quoted,
    origin_of,
)

__all__ = ["ConfigurationError", "Settings", "is_loopback", "is_plain", "load_settings", "needs_extra", "origin_of"]

_PUBLISHED = re.compile(
    r"better-auth-secret-|change.?(me|this|it)|(your|my|super|some|default).{0,20}secret|secret.?(here|key)|placeholder|example",
    re.IGNORECASE,
)
"""What documentation and templates write where a secret is meant: Better Auth's own default, and phrases."""


def needs_extra(name: str) -> str:
    """Say which extra is missing, and how to install it.

    Without -e a copy would be installed in place of the clone, whose edits then had no effect.
    """
    command = f"pip install -c requirements.lock -e '.[{name}]'"
    return f"needs the extra `{name}`: in the clone, {command}; a deployment leaves out the -e"


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of a module in a package that is not installed
        return False


class Settings(BaseSettings):
    """Every setting of the service; `.env.example` explains each. An empty variable counts as unset."""

    model_config = SettingsConfigDict(
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    environment: Environment = "development"

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
    health_db_token: Secret | None = None

    better_auth_secret: SigningSecret | None = None
    better_auth_previous_secret: SigningSecret | None = None
    better_auth_url: BaseUrl | None = None
    better_auth_issuer: Names = ()
    better_auth_jwks_url: HttpUrl | None = None
    api_audience: Names = ()

    allowed_origins: Origins = ("http://localhost:3000",)
    allowed_headers: HeaderNames = ()
    max_concurrent_requests: Annotated[int, Field(ge=1, le=100_000)] = 100
    max_concurrent_requests_per_user: Annotated[int, Field(ge=1, le=100_000)] | None = None
    rate_limit: RateLimit = None
    max_tasks_per_user: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    trash_days: Annotated[int, Field(ge=0, le=3650)] = 30

    mcp: bool = False
    mcp_token: Secret | None = None
    public_url: HttpUrl | None = None
    root_path: RootPath = ""

    keep_alive: Annotated[float, Field(gt=0, le=3600)] = 75
    max_connections: Annotated[int, Field(ge=1, le=1_000_000)] | None = None

    log_level: LogLevel = "INFO"
    log_format: LogFormat | None = None
    log_requests: LogRequests = "all"
    log_slow_ms: Annotated[float, Field(ge=0, le=3_600_000, allow_inf_nan=False)] = 1000
    log_user_key: Secret | None = None
    server_timing: bool = False
    otel_exporter_otlp_endpoint: HttpUrl | None = None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read the environment, then `.env`, then the files of secrets that either names."""
        assert isinstance(dotenv_settings, DotEnvSettingsSource)  # noqa: S101 # of pydantic-settings
        env_file = EnvFile(settings_cls, dotenv_settings.env_file)
        secrets = InitSettingsSource(settings_cls, read_secret_files(settings_cls, env_file))
        return init_settings, env_settings, env_file, secrets

    @field_validator("*", mode="before")
    @classmethod
    def _without_blanks(cls, value: Any, info: Any) -> Any:
        """Drop blanks around a value. `values.py` refuses them around a secret, `db/url.py` drops a database URL's."""
        if not isinstance(value, str):
            return value
        if re.search(r"[\ud800-\udfff]", value):
            raise ValueError("must be UTF-8")  # the environment has bytes, and Python keeps those that are none so
        if re.match(rf"\s*{info.field_name}\s*=", value, re.IGNORECASE):
            raise ValueError("must be the value alone, without the name in front")
        if holds_a_secret(cls.model_fields[info.field_name]):
            return value
        value = value.strip()
        if is_quoted(value):
            raise ValueError("must have no quotes around it")
        return value

    @model_validator(mode="after")
    def _is_fit_for_production(self) -> Self:
        if not self.production:
            return self
        if "database_url" not in self.model_fields_set:
            raise ValueError("DATABASE_URL: is required in production; where an SQLite file is meant, name it")
        for name in ("better_auth_url", "better_auth_jwks_url"):
            url: str = getattr(self, name) or ""
            if is_plain(url):
                raise ValueError(
                    f"{name.upper()}: must be https in production: whoever is on the way could make tokens"
                )
        for name in ("better_auth_secret", "better_auth_previous_secret"):
            secret: SecretStr | None = getattr(self, name)
            if secret is not None and _PUBLISHED.search(secret.get_secret_value()):
                raise ValueError(f"{name.upper()}: is from a template; make one: openssl rand -base64 48")
        return self

    @model_validator(mode="after")
    def _has_a_way_to_verify_tokens(self) -> Self:
        if self.better_auth_secret is None and self.better_auth_url is None:
            place = "" if Path(".env").exists() else ", and there is no .env in this folder"
            raise ValueError(f"BETTER_AUTH_SECRET or BETTER_AUTH_URL: one of them is required{place}")
        if self.better_auth_previous_secret is not None and self.better_auth_secret is None:
            raise ValueError("BETTER_AUTH_PREVIOUS_SECRET: needs BETTER_AUTH_SECRET, which replaces it")
        if self.better_auth_issuer and self.better_auth_url is None:
            raise ValueError("BETTER_AUTH_ISSUER: needs BETTER_AUTH_URL, whose keys it goes with")
        if self.better_auth_jwks_url is not None and self.better_auth_url is None:
            raise ValueError("BETTER_AUTH_JWKS_URL: needs BETTER_AUTH_URL, which names the tokens' issuer")
        return self

    @model_validator(mode="after")
    def _has_the_optional_libraries(self) -> Self:
        if self.mcp and not _is_installed("mcp"):
            raise ValueError(f"MCP: {needs_extra('mcp')}")
        if self.otel_exporter_otlp_endpoint is not None and not _is_installed("opentelemetry.exporter"):
            raise ValueError(f"OTEL_EXPORTER_OTLP_ENDPOINT: {needs_extra('opentelemetry')}")
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
    files: dict[str, str] = {}
    try:
        files = read_secret_files(Settings, EnvFile(Settings))
        settings = Settings()
        for check in checks:
            check(settings)
    except ValidationError as error:
        reason = "; ".join(_describe(dict(detail)) for detail in error.errors(include_input=False, include_url=False))
    except ConfigurationError as error:
        reason = str(error)
    except UnicodeDecodeError:
        reason = ".env: must be UTF-8"
    except OSError as error:
        reason = f".env: cannot be read: {error.strerror}"
    else:
        return settings
    for name in files:
        reason = re.sub(rf"\b{name.upper()}:", f"{name.upper()}_FILE:", reason)
    sys.exit(f"todo-backend: wrong setting: {reason}")


def _describe(error: dict[str, Any]) -> str:
    location: tuple[Any, ...] = error["loc"]
    message = str(error["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")
    if error["type"] == "literal_error":
        message = message.replace("'", "")
    elif error["type"].startswith("int_"):
        message = "must be a whole number"
    elif error["type"] == "float_parsing":
        message = "must be a number"
    elif error["type"] == "bool_parsing":
        message = "must be true or false"
    return f"{str(location[0]).upper()}: {message}" if location else message
