"""Settings: which place wins, and what is said about a wrong value."""

from __future__ import annotations

from pathlib import Path

import pytest

from cactus_py import Client, ConfigError
from cactus_py.config import DEFAULT_MODEL, Settings, load_settings
from cactus_py.hub import Catalog


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults() -> None:
    settings = load_settings()
    assert (settings.model, settings.threads, settings.kv_type, settings.backend) == (DEFAULT_MODEL, None, "auto", "auto")
    assert settings.openai_api_key is None
    assert settings.speculation == 16


def test_the_default_model_is_in_the_catalog() -> None:
    assert Catalog.load().get(DEFAULT_MODEL) is not None


def test_file_environment_argument_in_that_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACTUS_PY_HOME", str(tmp_path))
    write(tmp_path / "config.toml", 'model = "from-file"\nthreads = 1\ncontext = 11\n')
    assert load_settings().threads == 1
    monkeypatch.setenv("CACTUS_PY_THREADS", "2")
    assert load_settings().threads == 2
    assert load_settings({"threads": 3}).threads == 3
    assert load_settings({"threads": None}).threads == 2
    assert load_settings({"threads": 3}).context == 11
    assert load_settings().model == "from-file"


def test_home_of_the_argument_holds_the_file(tmp_path: Path) -> None:
    write(tmp_path / "config.toml", "threads = 7\n")
    assert load_settings().threads is None
    assert load_settings({"home": tmp_path}).threads == 7


def test_config_variable_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACTUS_PY_CONFIG", str(write(tmp_path / "other.toml", "threads = 5\n")))
    assert load_settings().threads == 5
    monkeypatch.setenv("CACTUS_PY_CONFIG", str(tmp_path / "missing.toml"))
    with pytest.raises(ConfigError, match="named by CACTUS_PY_CONFIG, does not exist"):
        load_settings()


def test_environment_variables_by_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "CACTUS_PY_MODEL": "m",
        "CACTUS_PY_KERNELS": "scalar",
        "CACTUS_PY_KV_TYPE": "i8",
        "CACTUS_PY_CLOUD_MODEL": "big",
        "OPENAI_API_KEY": "sk-secret",
        "OPENAI_BASE_URL": "http://localhost:1/v1",
    }.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert (settings.model, settings.kernels, settings.kv_type, settings.cloud_model) == ("m", "scalar", "i8", "big")
    assert settings.openai_base_url == "http://localhost:1/v1"
    assert settings.openai_api_key is not None
    assert settings.openai_api_key.get_secret_value() == "sk-secret"
    assert "sk-secret" not in repr(settings) + str(settings) + settings.model_dump_json()


def test_an_empty_variable_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACTUS_PY_THREADS", "")
    monkeypatch.setenv("OPENAI_API_KEY", "")
    assert load_settings().threads is None
    assert load_settings().openai_api_key is None


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("CACTUS_PY_THREADS", "many", "CACTUS_PY_THREADS is wrong"),
        ("CACTUS_PY_THREADS", "0", "greater than or equal to 1"),
        ("CACTUS_PY_KV_TYPE", "f64", "'auto', 'f16', 'f32' or 'i8'"),
    ],
)
def test_a_wrong_variable_is_named(variable: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=words):
        load_settings()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("threads = 'x'", "threads in the configuration file is wrong"),
        ("thread = 1", 'there is no setting "thread"'),
        ("threads = ", "is not valid TOML"),
        ("home = '/elsewhere'", "set CACTUS_PY_HOME instead"),
    ],
)
def test_a_wrong_file_is_explained(text: str, words: str, tmp_path: Path) -> None:
    write(tmp_path / "config.toml", text)
    with pytest.raises(ConfigError, match=words):
        load_settings({"home": tmp_path})


def test_a_file_that_is_not_text_is_explained(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings({"home": tmp_path})


def test_a_wrong_argument_is_named() -> None:
    with pytest.raises(ConfigError, match="threads= is wrong"):
        load_settings({"threads": -1})
    with pytest.raises(ConfigError, match='no setting "tread"'):
        load_settings({"tread": 1})


def test_a_wrong_key_is_not_repeated(tmp_path: Path) -> None:
    write(tmp_path / "config.toml", "openai_api_key = ['sk-secret']\n")
    with pytest.raises(ConfigError) as caught:
        load_settings({"home": tmp_path})
    assert "sk-secret" not in str(caught.value)


def test_a_client_takes_settings_and_overrides_them(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings({"threads": 3, "model": "m"})
    monkeypatch.setenv("CACTUS_PY_THREADS", "9")
    with Client(config=settings) as client:
        assert (client.settings.threads, client.settings.model) == (3, "m")
    with Client("other", config=settings, threads=1) as client:
        assert (client.settings.threads, client.settings.model) == (1, "other")


def test_a_client_refuses_unknown_options() -> None:
    with pytest.raises(TypeError, match="no option 'thread'"):
        Client(thread=1)  # type: ignore[call-arg]


def test_settings_are_frozen() -> None:
    settings: Settings = load_settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.threads = 4
