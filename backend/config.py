"""The settings: read from the environment or `.env`, checked once, at the start.

This module imports nothing of ours and nothing heavy, so that a wrong setting is reported at once.
"""

import ipaddress
import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Self
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings.sources.utils import parse_env_vars

MINIMUM_SECRET_BYTES = 32
"""RFC 7518, section 3.2: an HS256 key has at least the 256 bits of the hash."""


_QUOTES = frozenset("'\"`“”")
_HOST = re.compile(r"[\w.-]+|[0-9a-fA-F:.]+")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_ENDS_IN_A_NUMBER = re.compile(r"(^|\.)(\d+|0x[0-9a-f]*)\.?$")
_TWO_READINGS = frozenset("ßς\u200c\u200d")
"""Letters that Python's punycode, of IDNA 2003, makes something else of than browsers do."""
_APPS_ORIGIN = re.compile(
    r"(?:capacitor|tauri|app|ionic|chrome-extension|moz-extension|safari-web-extension)://[a-z0-9.-]+(?::\d+)?/?"
)
"""Of pages that an application or a browser's extension brings with it."""


class ConfigurationError(Exception):
    """A setting that the service cannot start with. `reason` never holds the setting's value."""

    def __init__(self, variable: str, reason: str) -> None:
        super().__init__(f"{variable}: {reason}")


def _split(value: Any) -> Any:
    """Take names apart at their commas."""
    if not isinstance(value, str):
        return value
    parts = tuple(part.strip() for part in value.split(",") if part.strip())
    if any(part.startswith("[") or not _QUOTES.isdisjoint(part) for part in parts):
        raise ValueError("takes names separated by commas, without brackets and quotes")
    if not parts:
        raise ValueError("must name at least one")
    return parts


def origin_of(url: str) -> str:
    """Return the origin of an http URL as browsers write it: in lower case, the host as punycode, no default port.

    Raises `ValueError`.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port
    if not _TWO_READINGS.isdisjoint(host):
        raise ValueError("has a host that only its punycode, xn--…, names without doubt")
    if ":" in host:
        host = f"[{ipaddress.IPv6Address(host).compressed}]"
    elif _ENDS_IN_A_NUMBER.search(host):
        host = str(ipaddress.IPv4Address(host))  # browsers take 127.1 for an address, too, and write it in full
    else:
        host = host.encode("idna").decode()  # which refuses empty labels, as in a..b
    return f"{parts.scheme}://{host}" + ("" if port in {None, _DEFAULT_PORTS[parts.scheme]} else f":{port}")


def _http_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        usable = _HOST.fullmatch(parts.hostname or "") and origin_of(value) and parts.port != 0
        # Two slashes begin a second URL, and a colon without a port is a piece of one.
        usable = usable and "//" not in parts.path and not parts.netloc.endswith(":")
    except (ValueError, KeyError):
        usable = False
    # An empty query or fragment is none to urlsplit, and what is put behind it would be no part of the path.
    if not usable or parts.username is not None or not set("?# \\").isdisjoint(value) or not value.isprintable():
        raise ValueError("must be an http or https URL with its scheme and host, without user, query or fragment")
    # A scheme means the same in capitals, and whoever asks for "http:" must see it.
    return (parts.scheme + value[len(parts.scheme) :]).rstrip("/")


def _base_url(value: str) -> str:
    if re.search(r"/(jwks|jwks\.json)/?$|/\.well-known/", value):
        raise ValueError("must be the base URL; the address of the keys is for BETTER_AUTH_JWKS_URL")
    return value


def _origin(value: str) -> str:
    if _APPS_ORIGIN.fullmatch(value.lower()):
        return value.lower().rstrip("/")
    is_pattern = value.startswith("https://*.")
    try:
        url = _http_url(value.replace("*.", "", 1) if is_pattern else value)
        origin = origin_of(url)
        if urlsplit(url).path or (is_pattern and "." not in origin):
            raise ValueError
    except ValueError:
        raise ValueError("each must be an origin such as https://app.example.com, or https://*.example.com") from None
    return origin.replace("https://", "https://*.", 1) if is_pattern else origin


def _names(names: tuple[str, ...]) -> tuple[str, ...]:
    if any(name == "*" or re.search(r"[\s;]|\$\{", name) or not name.isprintable() for name in names):
        raise ValueError("takes names separated by commas, each to be met exactly, and no placeholder")
    return names


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


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _level(value: Any) -> Any:
    name = value.upper() if isinstance(value, str) else value
    return "WARNING" if name == "WARN" else name


def _root_path(value: str) -> str:
    path = value.rstrip("/")
    if not re.fullmatch(r"(/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~-]+)*", path):
        raise ValueError("must be a path such as /todo")
    return path


def _plain(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if text.startswith("-----BEGIN"):
        return value  # a key, which the verifier refuses as such
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in _QUOTES
    if quoted or text != text.strip() or not text.isprintable():
        raise ValueError("must have no blanks or quotes around it, and no line end or other control character in it")
    if text.lower().startswith("bearer "):
        raise ValueError("must be the value alone, without Bearer")
    return value


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split), AfterValidator(_names)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
BaseUrl = Annotated[HttpUrl, AfterValidator(_base_url)]
Origins = Annotated[tuple[Annotated[str, AfterValidator(_origin)], ...], NoDecode, BeforeValidator(_split)]
Seconds = Annotated[float, Field(gt=0, le=300, allow_inf_nan=False)]
Secret = Annotated[SecretStr, AfterValidator(_plain)]
SigningSecret = Annotated[SecretStr, AfterValidator(_plain), AfterValidator(_long_enough)]


_PERIODS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
_RATE = re.compile(r"([1-9](?:_?[0-9]){0,7})\s*/\s*(second|minute|hour|day)", re.ASCII | re.IGNORECASE)


def _rate(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    found = _RATE.fullmatch(value.strip())
    if found is None:
        raise ValueError("must be a number of requests in a period, such as 300/minute")
    return int(found[1]), _PERIODS[found[2].lower()]


RateLimitText = Annotated[tuple[int, int] | None, NoDecode, BeforeValidator(_rate)]


_PUBLISHED = re.compile(
    r"better-auth-secret-|change.?(me|this|it)|(your|my|super|some|default).{0,20}secret|secret.?(here|key)|placeholder|example",
    re.IGNORECASE,
)
"""What documentation and templates write where a secret is meant: Better Auth's own default, and phrases."""


def _is_local(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _EnvFile(DotEnvSettingsSource):
    """`.env`. A value is what stands there: of a password with `${x}` in it python-dotenv would make another one."""

    @staticmethod
    def _static_read_env_file(
        file_path: Path, *, encoding: str | None = None, **options: Any
    ) -> Mapping[str, str | None]:
        return parse_env_vars(dotenv_values(file_path, encoding=encoding, interpolate=False), **options)


_from_files: set[str] = set()
"""The variables that the settings were last read from files for, so that a refusal can name the file's."""


class _SecretFiles(PydanticBaseSettingsSource):
    """Secrets in files, as Docker and Kubernetes mount them: `NAME_FILE` is the path of the file that holds `NAME`."""

    def __init__(self, settings_cls: type[BaseSettings], *sources: EnvSettingsSource) -> None:
        super().__init__(settings_cls)
        self._variables = {name: value for source in reversed(sources) for name, value in source.env_vars.items()}

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return the secret in the file, None where no file is named. Raises `ConfigurationError`."""
        path = self._variables.get(f"{field_name}_file")
        variable = f"{field_name}_file".upper()
        if not path:
            return None, field_name, False
        if not _holds_a_secret(field):
            raise ConfigurationError(variable, f"is not read: only secrets come from files; set {field_name.upper()}")
        if self._variables.get(field_name):
            raise ConfigurationError(variable, f"is set, and so is {field_name.upper()}: one of them is too many")
        try:
            text = Path(path).read_text("utf-8-sig").rstrip()
        except (OSError, ValueError):
            raise ConfigurationError(variable, "names a file that cannot be read as text") from None
        if not text:
            raise ConfigurationError(variable, "names an empty file")
        return text, field_name, False

    def __call__(self) -> dict[str, Any]:
        """Return the secrets that were found."""
        fields = self.settings_cls.model_fields.items()
        found = {name: text for name, field in fields if (text := self.get_field_value(field, name)[0]) is not None}
        _from_files.clear()
        _from_files.update(name.upper() for name in found)
        return found


def _holds_a_secret(field: FieldInfo) -> bool:
    return "SecretStr" in str(field.annotation)


class Settings(BaseSettings):
    """Every setting of the service; `.env.example` explains each. An empty variable counts as unset."""

    model_config = SettingsConfigDict(
        env_file=".env",
        env_file_encoding="utf-8-sig",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    environment: Annotated[Literal["development", "production"], BeforeValidator(_lower)] = "development"

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
    allowed_headers: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split), AfterValidator(_header_names)] = ()
    max_concurrent_requests: Annotated[int, Field(ge=1, le=100_000)] = 100
    max_concurrent_requests_per_user: Annotated[int, Field(ge=1, le=100_000)] | None = None
    rate_limit: RateLimitText = None
    max_tasks_per_user: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    trash_days: Annotated[int, Field(ge=0, le=3650)] = 30

    mcp: bool = False
    mcp_token: Secret | None = None
    public_url: HttpUrl | None = None
    root_path: Annotated[str, AfterValidator(_root_path)] = ""

    keep_alive: Annotated[float, Field(gt=0, le=3600)] = 75
    max_connections: Annotated[int, Field(ge=1, le=1_000_000)] | None = None

    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_level)] = "INFO"
    log_format: Annotated[Literal["text", "json"], BeforeValidator(_lower)] | None = None
    log_requests: Annotated[Literal["all", "errors", "slow"], BeforeValidator(_lower)] = "all"
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
        assert isinstance(env_settings, EnvSettingsSource)  # noqa: S101 # of pydantic-settings
        assert isinstance(dotenv_settings, DotEnvSettingsSource)  # noqa: S101 # as above
        env_file = _EnvFile(settings_cls, dotenv_settings.env_file)
        return init_settings, env_settings, env_file, _SecretFiles(settings_cls, env_settings, env_file)

    @field_validator("*", mode="before")
    @classmethod
    def _without_blanks(cls, value: Any, info: Any) -> Any:
        """Drop blanks around a value; those around a secret may be a part of it, and are for `_plain` to refuse."""
        if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
            raise ValueError("must be UTF-8")  # the environment has bytes, and Python keeps those that are none so
        name = info.field_name.upper()
        if isinstance(value, str) and "database" not in info.field_name and re.match(rf"\s*{name}\s*=", value):
            raise ValueError("must be the value alone, without the name in front")
        is_secret = _holds_a_secret(cls.model_fields[info.field_name])
        return value.strip() if isinstance(value, str) and not is_secret else value

    @model_validator(mode="after")
    def _is_fit_for_production(self) -> Self:
        if not self.production:
            return self
        if "database_url" not in self.model_fields_set:
            raise ValueError("DATABASE_URL: is required in production; where an SQLite file is meant, name it")
        for name in ("better_auth_url", "better_auth_jwks_url"):
            url: str = getattr(self, name) or ""
            if url.startswith("http:") and not _is_local(url):
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
            raise ValueError("BETTER_AUTH_SECRET or BETTER_AUTH_URL: one of them is required")
        if self.better_auth_previous_secret is not None and self.better_auth_secret is None:
            raise ValueError("BETTER_AUTH_PREVIOUS_SECRET: needs BETTER_AUTH_SECRET, which replaces it")
        if self.better_auth_issuer and self.better_auth_url is None:
            raise ValueError("BETTER_AUTH_ISSUER: needs BETTER_AUTH_URL, whose keys it goes with")
        if self.better_auth_jwks_url is not None and self.better_auth_url is None:
            raise ValueError("BETTER_AUTH_JWKS_URL: needs BETTER_AUTH_URL, which names the tokens' issuer")
        return self

    @model_validator(mode="after")
    def _has_the_optional_libraries(self) -> Self:
        if self.mcp and find_spec("mcp") is None:
            raise ValueError("MCP: needs the extra `mcp`: in the clone, pip install '.[mcp]'")
        if self.otel_exporter_otlp_endpoint is not None and find_spec("opentelemetry.exporter") is None:
            raise ValueError(
                "OTEL_EXPORTER_OTLP_ENDPOINT: needs the extra: in the clone, pip install '.[opentelemetry]'"
            )
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
        with _read_whole():
            settings = Settings()
        for check in checks:
            check(settings)
    except ValidationError as error:
        _exit("; ".join(_describe(dict(detail)) for detail in error.errors(include_input=False, include_url=False)))
    except ConfigurationError as error:
        _exit(str(error))
    except UnicodeDecodeError:
        _exit(".env: must be UTF-8")
    except OSError as error:
        _exit(f".env: cannot be read: {error.strerror}")
    return settings


class _Refusing(logging.Handler):
    """Takes python-dotenv's warning of a line that it leaves out for what it is: a setting that is wrong."""

    def emit(self, record: logging.LogRecord) -> NoReturn:
        """Exit."""
        _exit(f".env: a line cannot be read; is a quote or an = missing? {record.getMessage()}")


@contextmanager
def _read_whole() -> Iterator[None]:
    logger, handler = logging.getLogger("dotenv.main"), _Refusing()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _describe(error: dict[str, Any]) -> str:
    location: tuple[Any, ...] = error["loc"]
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{str(location[0]).upper()}: {message}" if location else message


def _exit(reason: str) -> NoReturn:
    for variable in _from_files:
        reason = re.sub(rf"\b{variable}:", f"{variable}_FILE:", reason)
    sys.exit(f"todo-backend: wrong setting: {reason}")
