"""Settings: defaults, the environment, bounds, and errors that name the variable."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError
from pydantic_core import PydanticUndefined

from app.settings import Settings, SettingsError, load_settings, misspelt_variables, parse_devices, variable

DOCS = Path(__file__).parents[2] / "docs" / "settings.md"
UNIT = 1024 * 1024


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.upper().startswith("SEGGPT_"):
            monkeypatch.delenv(name)


def row(field: str) -> str:
    """The setting's line in docs/settings.md."""
    info = Settings.model_fields[field]
    default = info.default
    assert default is not PydanticUndefined
    shown = {None: "unset", ("auto",): "`auto`", False: "`false`"}.get(default, f"`{default}`")
    bounds = {
        word: getattr(rule, name)
        for rule in info.metadata
        for name, word in (("ge", "≥"), ("gt", ">"), ("le", "≤"))
        if hasattr(rule, name)
    }
    limits = ", ".join(f"{word} {value}" for word, value in bounds.items())
    schema = Settings.model_json_schema()["properties"][field]
    if "enum" in schema:
        limits = ", ".join(schema["enum"])
    return f"| `{variable(field)}` | {shown} | {limits or '-'} | {info.description} |"


def test_the_defaults_are_valid_and_cannot_be_changed() -> None:
    settings = load_settings()
    assert (settings.host, settings.port, settings.checkpoint) == ("127.0.0.1", 8000, "bundled")
    assert (settings.devices, settings.dtype, settings.threads) == (("auto",), "auto", None)
    assert (settings.max_body_bytes, settings.max_bytes_in_flight) == (64 * UNIT, 512 * UNIT)
    assert (settings.queue_pairs, settings.max_batch_pairs, settings.max_examples) == (64, 8, 16)
    with pytest.raises(ValidationError, match="frozen"):
        settings.port = 1


def test_the_environment_is_read_and_overrides_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGGPT_PORT", "9000")
    monkeypatch.setenv("SEGGPT_OFFLINE", "1")
    monkeypatch.setenv("SEGGPT_LOG_LEVEL", "DEBUG")
    monkeypatch.setenv("SEGGPT_DEVICES", "cuda:0, cuda:1")
    settings = load_settings(port=9001)
    assert (settings.port, settings.offline, settings.log_level) == (9001, True, "debug")
    assert settings.devices == ("cuda:0", "cuda:1")


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGGPT_TOKEN", "")
    monkeypatch.setenv("SEGGPT_DEVICES", "")
    settings = load_settings()
    assert settings.token is None
    assert settings.devices == ("auto",)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("auto", ("auto",)),
        ("CPU", ("cpu",)),
        ("cuda", ("cuda",)),
        ("cuda:0,cuda:1", ("cuda:0", "cuda:1")),
        ("cpu,cpu", ("cpu", "cpu")),
    ],
)
def test_devices_are_read(text: str, names: tuple[str, ...]) -> None:
    assert parse_devices(text) == names
    assert load_settings(devices=names).devices == names


@pytest.mark.parametrize("text", ["gpu", "cuda:", "cuda:x", "auto,cpu", "cuda,cuda:1", "cuda:0,,cuda:1", ","])
def test_unknown_devices_are_refused_by_name(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGGPT_DEVICES", text)
    with pytest.raises(SettingsError, match=r"^SEGGPT_DEVICES: got .*, allowed are") as caught:
        load_settings()
    assert repr(text) in str(caught.value)
    assert '"cuda:0,cuda:1"' in str(caught.value)


def test_every_wrong_variable_gets_one_line_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGGPT_PORT", "tcp://10.0.0.1:80")
    monkeypatch.setenv("SEGGPT_DTYPE", "int4")
    monkeypatch.setenv("SEGGPT_DEADLINE_S", "0")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines] == ["SEGGPT_PORT", "SEGGPT_DTYPE", "SEGGPT_DEADLINE_S"]
    assert "got 'tcp://10.0.0.1:80', input should be a valid integer" in lines[0]
    assert "'float32'" in lines[1]
    assert "greater than 0" in lines[2]


def test_the_queue_must_have_room_for_the_largest_request() -> None:
    with pytest.raises(SettingsError, match=r"SEGGPT_QUEUE_PAIRS is 15, .* SEGGPT_MAX_EXAMPLES \(16\)"):
        load_settings(queue_pairs=15)
    assert load_settings(queue_pairs=16).queue_pairs == 16


def test_the_largest_body_must_fit_into_the_bytes_in_flight() -> None:
    with pytest.raises(SettingsError, match="SEGGPT_MAX_BYTES_IN_FLIGHT is 2048, must be at least SEGGPT_MAX_BODY"):
        load_settings(max_body_bytes=4096, max_bytes_in_flight=2048)


def test_an_unknown_override_is_refused() -> None:
    with pytest.raises(SettingsError, match="ports: there is no such setting"):
        load_settings(ports=1)


def test_the_token_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGGPT_TOKEN", "hf_secret")
    assert "hf_secret" not in repr(load_settings())
    with pytest.raises(SettingsError) as caught:
        load_settings(token=b"\xffhf_secret")
    assert "hf_secret" not in str(caught.value)


def test_a_misspelt_variable_is_found_and_a_foreign_one_is_left_alone() -> None:
    names = ["SEGGPT_DEVICE", "SEGGPT_LOGLEVEL", "SEGGPT_PORT", "SEGGPT_SERVICE_HOST", "SEGGPT_PORT_8000_TCP", "PATH"]
    assert misspelt_variables(names) == [
        ("SEGGPT_DEVICE", "SEGGPT_DEVICES"),
        ("SEGGPT_LOGLEVEL", "SEGGPT_LOG_LEVEL"),
    ]


def test_every_setting_has_a_description_and_numbers_have_bounds() -> None:
    for field, info in Settings.model_fields.items():
        assert info.description, field
        if info.annotation in {int, float, int | None}:
            assert any(hasattr(rule, name) for rule in info.metadata for name in ("ge", "gt")), field


def test_reading_the_settings_does_not_import_torch() -> None:
    program = "import sys, app.settings, app.errors; app.settings.load_settings(); print('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_the_docs_list_every_setting_as_it_is() -> None:
    documented = [line for line in DOCS.read_text().splitlines() if line.startswith("| `")]
    assert documented == [row(field) for field in Settings.model_fields]
