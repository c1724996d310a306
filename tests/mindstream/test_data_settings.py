"""Settings of the data that the slow half trains on: off by default, and passed on."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from learners.background import Outcome
from learners.consolidation import ConsolidationConfig
from learners.curation import CurationReport, DataRules
from learners.data.adversarial import ADVERSARIES
from mindstream.learning import LearnMetrics, consolidation_config, data_rules
from mindstream.settings import commented_file, load_settings, role_environment
from schemas.errors import SettingsError
from serving.metrics import Metrics


@pytest.fixture(autouse=True)
def _clean_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_everything_is_off_by_default() -> None:
    settings = load_settings()
    assert data_rules(settings) == DataRules()
    assert consolidation_config(settings) == ConsolidationConfig(seed=settings.learn.seed)
    assert "[data]" in commented_file()


def test_every_rule_reaches_the_slow_half_through_a_role_s_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = Path("own.toml")
    file.write_text(
        "[data]\nclean = true\nnear_duplicates = true\nlabel_noise = true\npseudo_labels = true\n"
        'augment = 2\nback_translate = "some.where:else"\nadversarial = "pgd"\nadapt = "mlm"\n'
        "adapt_epochs = 3\n"
    )
    for name, value in role_environment(load_settings(file), {}).items():
        if name.startswith("MINDSTREAM_"):
            monkeypatch.setenv(name, value)
    settings = load_settings()
    assert data_rules(settings) == DataRules(
        clean=True,
        near_duplicates=True,
        label_noise=True,
        pseudo_labels=True,
        augment=2,
        back_translate="some.where:else",
    )
    config = consolidation_config(settings)
    assert (config.adapt, config.adapt_epochs) == ("masked", 3)
    assert config.adversarial == ADVERSARIES["pgd"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("adversarial", "hard"), ("adapt", "masked"), ("augment", -1), ("unlabelled_rows", 0)],
)
def test_wrong_values_are_named(name: str, value: object) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(overrides={f"data.{name}": value})
    assert f"data.{name} = {value!r}" in caught.value.problems[0]


def test_what_the_rules_did_is_a_metric_and_is_said(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics(CollectorRegistry())
    caplog.set_level("INFO")
    done = Outcome("adopted", "it holds", 3.0, None, CurationReport(9, suspicious=2, trained=7))
    LearnMetrics(metrics, {}).consolidated("intents", done)
    assert metrics.consolidation_rows.labels("intents", "suspicious")._value.get() == 2
    assert "it holds; trained on 7 of 9 rows, 2 suspicious" in caplog.text
