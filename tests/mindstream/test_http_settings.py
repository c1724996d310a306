"""The settings of the HTTP API: bounds, and a token that nobody is shown."""

from __future__ import annotations

import dataclasses

import pytest
from typer.testing import CliRunner

from mindstream.cli import app
from mindstream.http_sections import HttpSettings
from mindstream.settings import load_settings
from schemas.errors import SettingsError
from streams.admission import HttpLimits


def test_the_settings_are_the_limits_and_have_their_defaults() -> None:
    fields = {field.name: field.default for field in dataclasses.fields(HttpLimits)}
    defaults = HttpSettings().model_dump(exclude={"enabled"})  # type: ignore[call-arg]
    assert defaults == fields


def test_a_token_that_no_header_can_carry_is_refused_without_showing_it() -> None:
    for token in ("with space", "lîne", "a\nb"):
        with pytest.raises(SettingsError) as refused:
            load_settings(overrides={"http.token": token})
        assert str(refused.value).startswith("http.token = ***: must be printable ASCII")


def test_a_token_is_masked_where_settings_are_shown() -> None:
    shown = CliRunner().invoke(app, ["config", "show", "--json", "--set", "http.token=open-sesame"])
    assert shown.exit_code == 0
    assert "open-sesame" not in shown.output
    assert '"http.token": "***"' in shown.output
    assert "open-sesame" not in repr(load_settings(overrides={"http.token": "open-sesame"}))
