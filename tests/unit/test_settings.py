"""The option table: defaults, texts to values, secrets, faults."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airavata_provider.settings import Settings, SettingsError, config_section, get_settings, parse_settings

HOME = Path("/home/airflow")


def test_the_defaults() -> None:
    settings = parse_settings({}, home=HOME, fernet_key="key")
    assert settings.sql_alchemy_conn == "sqlite:////home/airflow/airavata.db"
    assert settings.catalog_folders == settings.patterns_folders == ()
    assert settings.webhook_base_url == ""
    assert (settings.poll_interval, settings.watch_interval) == (30.0, 0.25)


def test_texts_become_values() -> None:
    texts = {
        "sql_alchemy_conn": " postgresql://u:p@h/d ",
        "sql_alchemy_pool_size": "9",
        "catalog_folders": "/a:/b,c , ~/d:",
        "webhook_base_url": "https://x/",
        "webhook_secret": "s",
        "poll_interval": "2.5",
    }
    settings = parse_settings(texts, home=HOME)
    assert settings.sql_alchemy_conn == "postgresql://u:p@h/d"
    assert settings.sql_alchemy_pool_size == 9
    assert settings.catalog_folders == (Path("/a"), Path("/b"), HOME / "c", Path("~/d").expanduser())
    assert settings.webhook_base_url == "https://x"
    assert settings.webhook_secret == "s"
    assert settings.poll_interval == 2.5


def test_every_fault_is_told_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        parse_settings({"poll_interval": "soon", "sql_alchemy_pool_size": "1.5"}, home=HOME)
    text = str(caught.value)
    assert "[airavata] poll_interval: must be a number, not 'soon'" in text
    assert "[airavata] sql_alchemy_pool_size: must be a whole number, not '1.5'" in text
    with pytest.raises(SettingsError) as caught:
        parse_settings({"poll_interval": "0", "watch_interval": "nan"}, home=HOME)
    assert len(caught.value.faults) == 2


def test_the_secret_is_derived_and_the_same_everywhere() -> None:
    one = parse_settings({}, home=HOME, fernet_key="key").webhook_secret
    assert one == parse_settings({}, home=Path("/other"), fernet_key="key").webhook_secret
    assert one != parse_settings({}, home=HOME, fernet_key="other").webhook_secret
    assert "key" not in one
    assert len(one) == 64


def test_without_any_key_no_token_is_ever_good() -> None:
    one = parse_settings({}, home=HOME).webhook_secret
    assert len(one) == 64
    assert one != parse_settings({}, home=HOME).webhook_secret
    with pytest.raises(SettingsError, match="webhook_secret"):
        parse_settings({"webhook_base_url": "http://x"}, home=HOME)


def test_secrets_do_not_show() -> None:
    texts = {"sql_alchemy_conn": "postgresql://u:hush@h/d", "webhook_secret": "hush"}
    assert "hush" not in repr(parse_settings(texts, home=HOME))


def test_the_table_is_what_airflow_is_told() -> None:
    options = config_section()["options"]
    assert list(options) == [field.name for field in fields(Settings)]
    assert {name for name, option in options.items() if option["sensitive"]} == {
        "sql_alchemy_conn",
        "webhook_secret",
    }
    for name, option in options.items():
        assert option["description"].strip(), name
        assert option["type"] in {"string", "integer", "float", "boolean"}
        assert isinstance(option["default"], str)


def test_the_defaults_that_airflow_is_told_are_ours() -> None:
    told = {name: option["default"] for name, option in config_section()["options"].items()}
    assert parse_settings(told, home=HOME, fernet_key="k") == parse_settings({}, home=HOME, fernet_key="k")


@given(st.dictionaries(st.sampled_from([field.name for field in fields(Settings)]), st.text(max_size=30)))
def test_any_text_is_settings_or_our_error(texts: dict[str, str]) -> None:
    try:
        settings = parse_settings(texts, home=HOME, fernet_key="k")
    except SettingsError as error:
        assert error.faults
    else:
        assert settings.webhook_secret
        assert settings.sql_alchemy_conn


def test_options_are_read_from_airflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__AIRAVATA__PATTERNS_FOLDERS", "/patterns")
    monkeypatch.setenv("AIRFLOW__AIRAVATA__SQL_ALCHEMY_CONN_CMD", "echo postgresql://cmd/x")
    get_settings.cache_clear()
    try:
        assert get_settings().patterns_folders == (Path("/patterns"),)
        assert get_settings() is get_settings()
        assert get_settings().sql_alchemy_conn == "postgresql://cmd/x"
    finally:
        get_settings.cache_clear()
