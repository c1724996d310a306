"""The sections of the settings that say what is remembered, judged, released and consolidated.

Owns what may be set of memory, gate, store, slow half and its data; must not know where values come
from.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from learners.rehearsal import RECENT_ROWS, Law, Policy, check_shares
from mindstream.sections import Section


class ReplaySettings(Section):
    """Replay memory in Redis."""

    policy: Policy = Field(
        "class-balanced",
        description="which rows stay: class-balanced, reservoir, recency-mixed or loss-aware",
    )
    shares: dict[Law, float] = Field(
        {},
        description="share of the rows drawn by each law, together 1, such as "
        "{ class-balanced = 0.5, uniform = 0.0, recent = 0.25, loss = 0.25 }; empty: the policy's",
    )
    recent_rows: int = Field(
        RECENT_ROWS, ge=1, description="newest rows: those that are drawn or kept as recent"
    )
    max_rows: int = Field(200_000, ge=1, description="rows of a task, at most")
    max_bytes: int = Field(268_435_456, ge=1024, description="bytes of a task, at most")
    held_out_share: float = Field(
        0.05, ge=0.0, le=0.5, description="share of examples that the gate judges by"
    )
    held_out_rows: int = Field(2_000, ge=1, description="held-out rows of a task, at most")

    @field_validator("shares")
    @classmethod
    def _are_shares(cls, shares: dict[Law, float]) -> dict[Law, float]:
        check_shares(shares)
        return shares


class FeaturesSettings(Section):
    """Features of texts, kept in Redis between serve, learn and the gate."""

    max_bytes: int = Field(
        134_217_728,
        ge=0,
        description="bytes of kept features, at most; 0: serve and learn encode for themselves",
    )
    ttl_s: float = Field(
        3_600.0, gt=0, le=2_592_000, description="how long features are kept, seconds"
    )


class GateSettings(Section):
    """When a candidate may replace the release that serves."""

    margin: float = Field(
        0.01, ge=0, le=1, description="overall score it may lose beyond chance, 0 to 1"
    )
    label_loss: float = Field(
        0.34, ge=0, le=1, description="accuracy that one label may lose, 0 to 1"
    )
    slice_loss: float = Field(
        0.05, ge=0, le=1, description="score that the oldest or newest rows may lose, 0 to 1"
    )
    calibration_loss: float = Field(
        0.05, ge=0, le=1, description="how much the calibration error may grow, 0 to 1"
    )
    min_label_rows: int = Field(
        5, ge=1, description="held-out rows from which a single label counts"
    )
    rows: int = Field(512, ge=10, description="held-out rows that decide")


class StoreSettings(Section):
    """Where releases are kept."""

    url: str = Field(
        "", description="folder, s3://, gs:// or any fsspec address; empty: <data_dir>/releases"
    )
    keep: int = Field(
        50,
        ge=2,
        le=100_000,
        description="releases of a task that are kept: half of them the newest, the others ever "
        "farther apart, back to the first",
    )

    @field_validator("url")
    @classmethod
    def _can_be_opened(cls, url: str) -> str:
        protocol, separator, _ = url.partition("://")
        if separator:
            import fsspec

            try:
                fsspec.get_filesystem_class(protocol.split("::")[-1])
            except (ImportError, ValueError) as error:
                raise ValueError(f"{protocol}:// cannot be used here: {error}") from error
        return url


class ConsolidationSettings(Section):
    """The slow half of the strategy two-speed: the encoder, fine-tuned in the background."""

    enabled: bool = Field(True, description="whether the encoder is ever fine-tuned")
    rows: int = Field(1_000, ge=1, description="examples learned before the first time")
    growth: float = Field(
        2.0, gt=1, description="again when this many times the examples were learned"
    )
    idle_s: float = Field(30.0, ge=0, description="sooner, when nothing came for so long, seconds")
    idle_growth: float = Field(
        1.1, gt=1, description="then this many times the examples are enough"
    )
    every_s: float = Field(
        0.0, ge=0, description="sooner, this long after the last time, seconds; 0: not for that"
    )
    drift_rows: int = Field(
        500,
        ge=0,
        description="sooner, so many examples after a label changed its meaning, or `watch` found "
        "drift; 0: not for that",
    )
    epochs: int = Field(4, ge=1, le=100, description="passes over all rows in memory")
    batch_rows: int = Field(32, ge=1, le=4096, description="rows of a step")
    learning_rate: float = Field(5e-5, gt=0, description="of the encoder, at its highest")
    tuning: Literal["full", "lora", "adalora", "ia3", "prefix", "prompt"] = Field(
        "full",
        description="what of the encoder trains: full, lora, adalora, ia3, prefix or prompt, with "
        "learn.tuning_rank and learn.virtual_tokens",
    )
    blend: Literal["auto"] | Annotated[float, Field(gt=0, le=1)] = Field(
        "auto",
        description="how far from the pretrained weights to the trained ones, over 0 to 1; auto: "
        "0.7, 0.85 or 1.0, as held-out rows say",
    )


class DataSettings(Section):
    """What the slow half trains the encoder on, and how hard; everything is off by default."""

    clean: bool = Field(
        False, description="whether markup and control characters go from texts first"
    )
    near_duplicates: bool = Field(
        False, description="whether only the first of nearly equal texts of a label is taken"
    )
    label_noise: bool = Field(
        False,
        description="whether rows are left out whose label the others contradict; tasks of one "
        "label only",
    )
    pseudo_labels: bool = Field(
        False,
        description="whether interactions without a label are taken with a sure one; tasks of one "
        "label only",
    )
    augment: int = Field(
        0, ge=0, le=16, description="other wordings of a text, at most; 0: none are made"
    )
    back_translate: str = Field(
        "",
        description="a function that gives other wordings of a text, as package.module:function; "
        "empty: none",
    )
    adversarial: Literal["off", "fgm", "pgd", "freelb"] = Field(
        "off", description="how a batch is made harder: off, fgm, pgd or freelb"
    )
    adapt: Literal["off", "auto", "mlm", "contrastive"] = Field(
        "off",
        description="what the encoder learns of texts without labels first: off, mlm, contrastive, "
        "or auto: mlm where its weights carry a head for it",
    )
    adapt_epochs: int = Field(1, ge=1, le=100, description="passes over all texts for it")
    unlabelled_rows: int = Field(
        20_000,
        ge=1,
        description="newest interactions of a task that adapt and pseudo_labels read, at most",
    )
