"""roadloop.toml: strict about what it does not know, and what `init` writes is what is read."""

from pathlib import Path

import pytest

from roadloop_cloud.config import BrokerConfig, Config, FilesConfig, RolloutConfig
from roadloop_cloud.founding import config_text
from roadloop_cloud.workspace import Workspace
from roadloop_models.errors import ConfigError
from roadloop_models.settings import read_settings


def read(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "roadloop.toml"
    path.write_text(text)
    return read_settings(path, Config)


def test_what_init_writes_is_what_is_read(tmp_path: Path) -> None:
    broker = BrokerConfig(host="fleet.example.com", port=1234, bind="0.0.0.0", names=("fleet.example.com",))
    files = FilesConfig(port=8884, bind="0.0.0.0")
    config = Config(broker=broker, rollout=RolloutConfig(waves=("2", "100%"), soak_s=3), files=files)
    assert (config.files_url, Config().files_url) == ("https://fleet.example.com:8884", None)
    assert read(tmp_path, config_text(config)) == config
    assert read(tmp_path, config_text(Config())) == Config()
    assert read(tmp_path, "") == Config()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[broker]\nhots = 'x'", r"roadloop.toml: broker.hots: unknown key; did you mean 'host'"),
        ("[brokr]\nhost = 'x'", r"roadloop.toml: brokr: unknown key; did you mean 'broker'"),
        ("[broker]\nport = 70000", r"roadloop.toml: .*port"),
        ("[broker]\nport = '1'", r"\$.broker.port"),
        ("[rollout]\nsuccess_threshold = 1.5", r"success_threshold"),
        ("[broker", r"roadloop.toml"),
        ("broker = 3", r"\$.broker"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        read(tmp_path, text)


def test_a_folder_without_configuration_is_no_workspace(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="roadloop init"):
        Workspace.open(tmp_path)


def test_relative_places_are_below_the_workspace(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, Config())
    assert workspace.database_url == f"sqlite:///{tmp_path}/state.sqlite"
    assert workspace.telemetry == str(tmp_path / "telemetry")
    elsewhere = read(tmp_path, "[telemetry]\ndelta_dir = 's3://bucket/t'\n[database]\nurl = 'postgresql://u@h/d'")
    workspace = Workspace(tmp_path, elsewhere)
    assert (workspace.telemetry, workspace.database_url) == ("s3://bucket/t", "postgresql://u@h/d")
