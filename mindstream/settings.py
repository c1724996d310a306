"""Every setting, with its default, its unit and its rule: the only reader of the environment.

Flags beat `MINDSTREAM_` variables, which beat the TOML file, which beats the defaults. Nested names
are joined by two underscores: `kafka.servers` is `MINDSTREAM_KAFKA__SERVERS`. Wrong settings fail
at start, all at once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from pydantic_settings import (
    SettingsError as UnreadableVariable,
)

from mindstream.http_sections import HttpSettings, WebSettings
from mindstream.memory_sections import (
    ConsolidationSettings,
    DataSettings,
    FeaturesSettings,
    GateSettings,
    ReplaySettings,
    StoreSettings,
)
from mindstream.problems import is_of_kubernetes, line_of, meant
from mindstream.sections import (
    IngestSettings,
    KafkaSettings,
    LearnSettings,
    ModelSettings,
    RedisSettings,
    ServeSettings,
    TaskSettings,
    WatchSettings,
)
from schemas.errors import SettingsError

DEFAULT_FILE = Path("mindstream.toml")
ENV_PREFIX = "MINDSTREAM_"
FILE_VARIABLE = "MINDSTREAM_CONFIG"  # names the settings file; empty: there is none
SECRET_SECTIONS = ("kafka", "redis", "store", "http")


class Settings(BaseSettings):
    """All settings of a deployment."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True
    )
    toml_file: ClassVar[Path | None] = None

    data_dir: Path = Field(Path("mindstream-data"), description="checkpoints, releases and logs")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="DEBUG to ERROR"
    )
    embedded_kafka: bool = Field(False, description="set by `mindstream up` for its roles")
    kafka: KafkaSettings = KafkaSettings()  # type: ignore[call-arg]  # all fields have defaults
    redis: RedisSettings = RedisSettings()  # type: ignore[call-arg]
    store: StoreSettings = StoreSettings()  # type: ignore[call-arg]
    model: ModelSettings = ModelSettings()  # type: ignore[call-arg]
    ingest: IngestSettings = IngestSettings()  # type: ignore[call-arg]
    replay: ReplaySettings = ReplaySettings()  # type: ignore[call-arg]
    features: FeaturesSettings = FeaturesSettings()  # type: ignore[call-arg]
    learn: LearnSettings = LearnSettings()  # type: ignore[call-arg]
    consolidation: ConsolidationSettings = ConsolidationSettings()  # type: ignore[call-arg]
    data: DataSettings = DataSettings()  # type: ignore[call-arg]
    gate: GateSettings = GateSettings()  # type: ignore[call-arg]
    serve: ServeSettings = ServeSettings()  # type: ignore[call-arg]
    watch: WatchSettings = WatchSettings()  # type: ignore[call-arg]
    web: WebSettings = WebSettings()  # type: ignore[call-arg]
    http: HttpSettings = HttpSettings()  # type: ignore[call-arg]
    tasks: dict[str, TaskSettings] = Field(
        {"intents": TaskSettings(kind="classify")},
        min_length=1,
        description="name and kind of each task",
    )

    @field_validator("tasks")
    @classmethod
    def _task_names(cls, tasks: dict[str, TaskSettings]) -> dict[str, TaskSettings]:
        import re

        for name in tasks:
            if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,62}", name):
                raise ValueError(f"task name {name!r} must be lower case letters, digits, - and _")
            if "__" in name:  # it would be cut there in the name of a variable
                raise ValueError(f"task name {name!r} must not have two underscores together")
        return tasks

    @model_validator(mode="after")
    def _adaptation_trains_all(self) -> Settings:
        if self.data.adapt != "off" and self.consolidation.tuning != "full":
            raise ValueError(
                f"data.adapt {self.data.adapt!r} trains the full encoder: consolidation.tuning "
                f"must be 'full', not {self.consolidation.tuning!r}"
            )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then variables, then the TOML file."""
        sources: list[PydanticBaseSettingsSource] = [init_settings, env_settings]
        if cls.toml_file is not None:
            sources.append(TomlConfigSettingsSource(settings_cls, toml_file=cls.toml_file))
        return tuple(sources)

    @property
    def store_url(self) -> str:
        """Where releases are kept, resolved."""
        return self.store.url or str(self.data_dir / "releases")


def load_settings(file: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read all settings, or fail with every problem at once.

    Args:
        file: a TOML file; by default the one that MINDSTREAM_CONFIG names, or `mindstream.toml` in
            the current folder, where there is one.
        overrides: dotted names to values, from flags.

    Returns:
        Frozen settings.

    Raises:
        SettingsError: with one line a problem: name, value and rule.
    """
    problems = _strange_variables()
    source = _source(file, problems)
    tree = _nested(overrides or {}, problems)
    bound = type("BoundSettings", (Settings,), {"toml_file": source, "__module__": __name__})
    settings: Settings | None = None
    try:
        settings = bound(**tree)
    except ValidationError as error:
        known = setting_names()
        problems += [
            line_of(problem, known=known, holders=SECRET_SECTIONS) for problem in error.errors()
        ]
    except UnreadableVariable as error:
        problems.append(f"a variable that must be JSON is not: {error}")
    except ValueError as error:  # a TOML file that cannot be parsed
        problems.append(f"settings file {source}: {error}")
    if problems or settings is None:
        raise SettingsError(problems)
    return settings


def _source(file: Path | None, problems: list[str]) -> Path | None:
    """Find the settings file; None where there is none to read."""
    variable = os.environ.get(FILE_VARIABLE)
    if file is None and variable == "":
        return None
    named = file or (Path(variable) if variable else None)
    if named is not None and not named.is_file():
        problems.append(f"settings file {named}: there is no such file")
        return None
    return named or (DEFAULT_FILE if DEFAULT_FILE.is_file() else None)


def setting_names() -> list[str]:
    """List the dotted name of every setting, and of every section."""
    names = []
    for name, field in Settings.model_fields.items():
        kind = field.annotation
        names.append(name)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            names += [f"{name}.{key}" for key in kind.model_fields]
    return names


def _strange_variables() -> list[str]:
    """Name the variables that look like ours and are no setting: they would do nothing.

    One whose section is right and whose last part is not is found with the values.
    """
    sections = {name.split(".")[0] for name in setting_names() if "." in name} | {"tasks"}
    known = [variable(name) for name in setting_names()]
    problems = []
    for given, value in os.environ.items():
        name = given.upper()
        if not name.startswith(ENV_PREFIX) or name == FILE_VARIABLE:
            continue
        top, *rest = name.removeprefix(ENV_PREFIX).lower().split("__")
        right = top in Settings.model_fields and (not rest or top in sections)
        if not right and not is_of_kubernetes(name, value):
            problems.append(
                f"{given}: there is no such setting; {meant(name, known, prefix=ENV_PREFIX)}"
            )
    return problems


def _nested(overrides: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in overrides.items():
        if value is None:
            continue
        *parents, last = name.split(".")
        node: Any = tree
        for parent in parents:
            node = node.setdefault(parent, {}) if isinstance(node, dict) else node
        if not isinstance(node, dict) or isinstance(node.get(last), dict):
            problems.append(f"{name}: what it is a part of, or has as parts, is given as well")
            continue
        node[last] = value
    return tree


def role_environment(settings: Settings, overrides: Mapping[str, str]) -> dict[str, str]:
    """Build the environment that hands settings to a role's process.

    Args:
        settings: what the parent runs with; every scalar is passed on, so that flags reach the
            roles too. They read no file.
        overrides: dotted names to values that the parent decided, such as the address of an
            embedded service.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith(ENV_PREFIX)}
    for name, value in flatten(settings.model_dump(mode="json")).items():
        environment[variable(name)] = str(value)
    for name, text in overrides.items():
        environment[variable(name)] = text
    environment[FILE_VARIABLE] = ""  # all of it is here: a file could only add what is not meant
    return environment


def variable(name: str) -> str:
    """Name the variable of a setting: `kafka.servers` is `MINDSTREAM_KAFKA__SERVERS`."""
    return ENV_PREFIX + name.upper().replace(".", "__")


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings into dotted names."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def environment_flag(name: str) -> str | None:
    """Read a variable that is no setting, such as CI."""
    return os.environ.get(name)


def commented_file() -> str:
    """Write every setting with its default, commented out, as a TOML file to start from."""
    lines = [
        "# Settings of mindstream. Every line shows a default; take away the # to change it.",
        "",
    ]
    sections: list[tuple[str, type[BaseModel]]] = []
    for name, field in Settings.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            sections.append((name, kind))
        elif name not in ("tasks", "embedded_kafka"):
            lines += [f"# {field.description}", f"#{name} = {_toml(field.default)}"]
    for name, kind in sections:
        lines += ["", f"[{name}]  # {(kind.__doc__ or '').strip()}"]
        for key, field in kind.model_fields.items():
            lines += [f"# {field.description}", f"#{key} = {_toml(field.default)}"]
    lines += [
        "",
        "# One section a task. kind: " + str(TaskSettings.model_fields["kind"].description),
    ]
    lines += ["[tasks.intents]", 'kind = "classify"', ""]
    return "\n".join(lines)


def _toml(value: Any) -> str:  # noqa: ANN401
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name} = {_toml(inner)}" for name, inner in value.items()) + "}"
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'
