"""Where settings come from: the environment, `.env`, and files that hold one secret each."""

import stat
from collections.abc import Mapping
from pathlib import Path

from dotenv.parser import parse_stream
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, DotEnvSettingsSource, EnvSettingsSource
from pydantic_settings.sources.utils import parse_env_vars

MAX_SECRET_FILE = 64 * 1024
"""Bytes of a file that holds a secret."""


class ConfigurationError(Exception):
    """A setting that the service cannot start with. `reason` never holds the setting's value."""

    def __init__(self, variable: str, reason: str) -> None:
        super().__init__(f"{variable}: {reason}")


class EnvFile(DotEnvSettingsSource):
    """`.env`. A value is what stands there: of a password with `${x}` in it python-dotenv would make another one."""

    def _read_env_file(self, file_path: Path) -> Mapping[str, str | None]:
        with file_path.open(encoding="utf-8-sig") as file:
            bindings = list(parse_stream(file))
        for binding in bindings:
            if binding.error:
                line = binding.original.line
                raise ConfigurationError(".env", f"line {line} cannot be read; is a quote or an = missing?")
        return parse_env_vars({binding.key: binding.value for binding in bindings if binding.key}, ignore_empty=True)


def read_secret_files(settings_cls: type[BaseSettings], env_file: EnvFile) -> dict[str, str]:
    """Return the secrets in files, as Docker and Kubernetes mount them: `NAME_FILE` is the path of the one with `NAME`.

    Raises `ConfigurationError`.
    """
    variables = {**env_file.env_vars, **EnvSettingsSource(settings_cls).env_vars}
    return {
        name: _read_secret(name, path, field, variables)
        for name, field in settings_cls.model_fields.items()
        if (path := variables.get(f"{name}_file"))
    }


def _read_secret(name: str, path: str, field: FieldInfo, variables: Mapping[str, str | None]) -> str:
    variable = f"{name}_file".upper()
    if not holds_a_secret(field):
        raise ConfigurationError(variable, f"is not read: only secrets come from files; set {name.upper()}")
    if variables.get(name):
        raise ConfigurationError(variable, f"is set, and so is {name.upper()}: one of them is too many")
    try:
        found = Path(path).stat()
        if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_SECRET_FILE:  # a pipe could hold up the start
            raise ConfigurationError(variable, f"must name a regular file of at most {MAX_SECRET_FILE // 1024} KiB")
        text = Path(path).read_text("utf-8-sig").rstrip()
    except (OSError, ValueError):
        raise ConfigurationError(variable, "names a file that cannot be read as text") from None
    if not text:
        raise ConfigurationError(variable, "names an empty file")
    return text


def holds_a_secret(field: FieldInfo) -> bool:
    """Whether a field's value must not be shown, and may come from a file."""
    return "SecretStr" in str(field.annotation)
