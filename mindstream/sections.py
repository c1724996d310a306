"""The sections of the settings: every value with its default, its unit and its rule.

Owns what may be set; must not know where values come from.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

EMBEDDED = "embedded"
# As learners.engines has them; said again here because that takes seconds to import.
ENGINE_PRECISIONS = {
    "torch": ("fp32", "bf16"),
    "torch-compiled": ("fp32", "bf16"),
    "cuda-graphs": ("bf16",),
    "openvino": ("fp32", "bf16", "int8-weights", "int8"),
    "onnxruntime": ("fp32", "int8"),
}
_Engine = Literal["auto", "torch", "torch-compiled", "cuda-graphs", "openvino", "onnxruntime"]
# As learners.pooling reads it.
POOLINGS = r"^(mean|cls|max)-last-[1-9][0-9]?(\+(mean|cls|max)-last-[1-9][0-9]?)*(/joint)?$"
_BROKER = re.compile(r"^(\[[0-9A-Fa-f:.]+\]|[^\s:/,@]+):(\d{1,5})$")
_LOOKS_LIKE_A_PATH = re.compile(r"^[/.~]|\\|/$|/.*/")  # a name on the hub has one / at most


class Section(BaseModel):
    """What all sections share: no unknown names, no change after the start."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class KafkaSettings(Section):
    """Where the events are."""

    servers: str = Field(
        EMBEDDED, min_length=1, description="brokers, host:port,host:port; or 'embedded'"
    )
    prefix: str = Field(
        "mindstream",
        pattern=r"^[A-Za-z0-9._-]{1,100}$",
        description="prefix of every topic and group",
    )
    partitions: int = Field(
        4, ge=1, le=1024, description="partitions of a topic made by `topics create`"
    )
    replication: int = Field(
        1, ge=1, le=10, description="copies of a topic made by `topics create`"
    )
    session_timeout_s: float = Field(
        10.0,
        ge=1.0,
        le=300.0,
        description="a worker silent for so long loses its partitions, seconds",
    )
    transport: Literal["fast", "stock"] = Field(
        "fast",
        description="fast: Faust events of whole chunks; stock: an event for each message, slower",
    )
    security: Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"] = Field(
        "plaintext", description="plaintext, ssl, sasl_plaintext or sasl_ssl"
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "SCRAM-SHA-512", description="PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"
    )
    username: str = Field("", description="for sasl_*")
    password: str = Field(
        "", description="for sasl_*; better given as MINDSTREAM_KAFKA__PASSWORD", repr=False
    )
    ca_file: str = Field(
        "", description="certificate authorities (PEM) for ssl and sasl_ssl; empty: the system's"
    )

    @field_validator("servers")
    @classmethod
    def _are_brokers(cls, servers: str) -> str:
        for server in servers.split(",") if servers != EMBEDDED else ():
            match = _BROKER.match(server.strip())
            if match is None or not 0 < int(match[2]) < 65_536:
                raise ValueError(f"{server!r} is no broker: must be 'embedded' or host:port,...")
        return servers

    @field_validator("ca_file")
    @classmethod
    def _is_there(cls, path: str) -> str:
        if path and not Path(path).is_file():
            raise ValueError("there is no such file")
        return path

    @model_validator(mode="after")
    def _sasl_needs_a_user(self) -> KafkaSettings:
        if self.security.startswith("sasl") and not (self.username and self.password):
            raise ValueError(f"security {self.security!r} needs username and password")
        return self


class RedisSettings(Section):
    """Where labels wait and replay memory lives."""

    url: str = Field(
        EMBEDDED, description="redis:// or rediss:// address, or 'embedded'", repr=False
    )
    namespace: str = Field(
        "mindstream", pattern=r"^[A-Za-z0-9._-]{1,64}$", description="start of every key"
    )

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, url: str) -> str:
        if url != EMBEDDED and not url.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("must be 'embedded' or start with redis://, rediss:// or unix://")
        return url


class TaskSettings(Section):
    """One task of this deployment."""

    kind: Literal["classify", "multilabel"] = Field(
        "classify", description="classify: one label; multilabel: any number of labels"
    )


class ModelSettings(Section):
    """The encoder that all tasks start from."""

    backbone: str = Field(
        "all-MiniLM-L6-v2",
        min_length=1,
        description="all-MiniLM-L6-v2 (shipped), a local folder, or a Hugging Face name",
    )
    max_tokens: int = Field(128, ge=8, le=8192, description="longer texts are cut here, tokens")
    pooling: str = Field(
        "mean-last-3",
        pattern=POOLINGS,
        description="features from the last N hidden layers: mean-last-N, max-last-N or cls-last-N "
        "(the first token), or several: mean-last-3+cls-last-1. Each vector has length 1 before "
        "they are joined; with /joint behind them, only all together",
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|mps|cuda(:\d{1,3})?)$",
        description="auto, cpu, cuda, cuda:1, mps",
    )
    engine: _Engine = Field(
        "auto", description="what computes in serve; auto measures at start and once texts came"
    )
    precision: Literal["auto", "fp32", "bf16", "int8-weights", "int8"] = Field(
        "auto",
        description="auto takes what is fastest and near enough; learn stays with fp32, bf16",
    )
    max_accuracy_loss: float = Field(
        0.3, ge=0, le=100, description="what an engine may cost on held-out labels, points"
    )
    threads: int = Field(
        0, ge=0, le=1024, description="processor threads of a role; 0: half of the cores"
    )

    @field_validator("backbone")
    @classmethod
    def _is_a_folder_or_a_name(cls, backbone: str) -> str:
        if _LOOKS_LIKE_A_PATH.search(backbone) and not Path(backbone).expanduser().is_dir():
            raise ValueError("there is no such folder")
        return backbone

    @model_validator(mode="after")
    def _engine_has_precision(self) -> ModelSettings:
        known = ENGINE_PRECISIONS.get(self.engine)
        if known is not None and self.precision not in ("auto", *known):
            raise ValueError(
                f"engine {self.engine!r} does not compute in {self.precision}, only in "
                f"{', '.join(known)}"
            )
        return self


class IngestSettings(Section):
    """Validate, de-duplicate, join late labels."""

    port: int = Field(8081, ge=0, le=65_535, description="HTTP port of /healthz and /metrics")
    label_ttl_s: float = Field(
        7 * 86_400.0, gt=0, description="how long an interaction waits for its label, seconds"
    )
    remember_s: float = Field(
        14 * 86_400.0,
        gt=0,
        description="how long an id is known, to drop repeats and take corrections, seconds",
    )
    shards: int = Field(
        16, ge=1, le=1024, description="slots of the join state; never change on a live system"
    )
    max_message_bytes: int = Field(
        1_048_576, ge=1024, description="larger messages go to dead letters, bytes"
    )
    max_age_days: float = Field(
        3650.0, gt=0, description="older event times go to dead letters, days"
    )
    max_ahead_s: float = Field(
        300.0, ge=0, description="event times further ahead go to dead letters, seconds"
    )

    @model_validator(mode="after")
    def _remember_outlives_ttl(self) -> IngestSettings:
        if self.remember_s < self.label_ttl_s:
            raise ValueError(
                f"remember_s ({self.remember_s:g}) must not be under "
                f"label_ttl_s ({self.label_ttl_s:g})"
            )
        return self


class LearnSettings(Section):
    """The learner."""

    port: int = Field(8082, ge=0, le=65_535, description="HTTP port of /metrics")
    strategy: Literal[
        "two-speed",
        "er",
        "er-ace",
        "derpp",
        "mir",
        "agem",
        "gdumb",
        "ewc",
        "mas",
        "si",
        "rwalk",
        "lwf",
        "feature-distillation",
        "naive",
        "joint",
        "plugin",
    ] = Field(
        "two-speed",
        description="two-speed, er, er-ace, derpp, mir, agem, gdumb, ewc, mas, si, rwalk, lwf, "
        "feature-distillation, naive, joint or plugin",
    )
    plugin: str = Field(
        "",
        description="package.module:Class of an Avalanche plugin, for the strategy plugin",
    )
    plugin_arguments: str = Field(
        "{}", description="what that class is built with: a table, or a JSON object as text"
    )
    consolidate_every: int = Field(
        1_000,
        ge=1,
        description="examples between two consolidation points (ewc, mas, si, rwalk, lwf, "
        "feature-distillation, plugin); between two trainings (gdumb); fewer once drift is found",
    )
    strength: float = Field(
        1.0, ge=0, description="factor of a strategy's own penalty or distillation"
    )
    decay: float = Field(
        0.9, ge=0, le=1, description="share of old importances a consolidation keeps (ewc, mas, si)"
    )
    epochs: int = Field(3, ge=1, le=1_000, description="passes of one training (gdumb, joint)")
    stored_rows: int = Field(2_048, ge=1, description="rows stored (gdumb)")
    stored_logits: int = Field(
        4_000_000,
        ge=1,
        description="numbers stored as logits of earlier rows, 4 bytes each (derpp)",
    )
    reuse_features: bool = Field(
        True,
        description="whether features that serve computed are taken as they are (two-speed, gate)",
    )
    batch_rows: int = Field(
        0, ge=0, le=4096, description="rows of a micro-batch, at most; 0: the strategy's own"
    )
    max_wait_s: float = Field(
        0.1, ge=0, description="longest wait for a micro-batch to fill, seconds"
    )
    replay_rows: int = Field(
        32,
        ge=0,
        le=4096,
        description="rows replayed beside each micro-batch (er, er-ace, derpp, mir, agem)",
    )
    tuning: Literal["full", "frozen", "lora", "adalora", "ia3", "prefix", "prompt"] = Field(
        "full",
        description="how much of the encoder is trained, by strategies that train it: full, "
        "frozen, lora, adalora, ia3, prefix or prompt",
    )
    tuning_rank: int = Field(8, ge=1, le=256, description="rank of an adapter (lora, adalora)")
    virtual_tokens: int = Field(
        16, ge=1, le=256, description="tokens that are trained (prefix, prompt)"
    )
    learning_rate: float = Field(
        5e-5,
        gt=0,
        description="of the encoder, for strategies that train it; other methods of tuning than "
        "full take a fixed multiple of it",
    )
    head_learning_rate: float = Field(2e-3, gt=0, description="of the trained head")
    projection_width: int = Field(
        4096, ge=64, le=65_536, description="random features of the two-speed head"
    )
    head: Literal["auto", "balanced-ridge", "lda", "ridge", "nearest-mean"] = Field(
        "auto",
        description="solve of the two-speed head's sums: auto chooses on the stream; or "
        "balanced-ridge, lda, ridge, nearest-mean",
    )
    head_metric: Literal["log-loss", "accuracy", "macro-f1"] = Field(
        "log-loss", description="what auto chooses for: log-loss, accuracy or macro-f1"
    )
    label_names: bool = Field(
        True, description="a label's own name counts as one example of it; off for codes"
    )
    words: bool = Field(
        True,
        description="the two-speed head counts words too, beside features, and listens to them as "
        "far as held-out labels say",
    )
    release_every_s: float = Field(
        0.5, gt=0, description="shortest time between two candidates, seconds"
    )
    checkpoint_every_s: float = Field(
        30.0, gt=0, description="time between two checkpoints, seconds"
    )
    seed: int = Field(0, ge=0, description="of everything random")

    @field_validator("plugin_arguments", mode="before")
    @classmethod
    def _are_an_object(cls, arguments: object) -> str:
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments)
            except ValueError as error:
                raise ValueError(f"a table or a JSON object was expected: {error}") from error
        if not isinstance(arguments, dict):
            raise ValueError("a table or a JSON object was expected")
        return json.dumps(arguments)

    @model_validator(mode="after")
    def _plugin_is_named(self) -> LearnSettings:
        if self.strategy == "plugin" and not self.plugin:
            raise ValueError("strategy 'plugin' needs plugin = \"package.module:Class\"")
        return self


class ServeSettings(Section):
    """The server."""

    port: int = Field(
        8080, ge=0, le=65_535, description="HTTP port of /v1 /healthz /readyz /metrics /releases"
    )
    batch_rows: int = Field(1_024, ge=1, le=65_536, description="records taken at once, at most")
    max_tokens: int = Field(8_192, ge=128, description="tokens of one forward pass, at most")
    max_wait_s: float = Field(
        0.0,
        ge=0,
        description="longest wait for a batch to fill where nothing is being answered, seconds",
    )
    pass_rows: int = Field(64, ge=1, le=4_096, description="rows of one forward pass, at most")
    max_queued: int = Field(
        1_024, ge=1, description="rows of callers that may wait for the model; more are refused"
    )
    remembered: int = Field(
        4_096, ge=0, description="texts whose features and answers are kept in case they come again"
    )
    top: int = Field(3, ge=1, le=16, description="labels named in a prediction")


class WatchSettings(Section):
    """Scores and drift."""

    port: int = Field(8083, ge=0, le=65_535, description="HTTP port of /healthz and /metrics")
    window: int = Field(1_000, ge=10, description="joined predictions in the rolling scores")
    pair_ttl_s: float = Field(
        7 * 86_400.0, gt=0, description="how long a prediction waits for its label, seconds"
    )
    adwin_delta: float = Field(
        0.002, gt=0, lt=1, description="ADWIN on errors: chance of a false alarm"
    )
    page_hinkley_threshold: float = Field(
        50.0, gt=0, description="Page-Hinkley on confidence: higher means fewer alarms"
    )
