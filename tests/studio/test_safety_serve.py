"""What `serve` decides before gradio is started."""

from __future__ import annotations

import dataclasses
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipelines.core.errors import SettingsError
from studio.safety.launch_settings import LaunchSettings
from studio.server import serve as module


@pytest.fixture
def settings(tmp_path):
    return LaunchSettings(outputs=tmp_path / "outputs", temp=tmp_path / "temp")


def start(settings, **launch_kwargs):
    with module.run_server(SimpleNamespace(blocks={}), settings, **launch_kwargs):
        pass


def test_the_flags_cannot_be_overruled(settings):
    with pytest.raises(SettingsError, match="allowed_paths, share"):
        start(settings, share=True, allowed_paths=["/"], css="")


def test_a_taken_port_is_told_at_once(settings):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = dataclasses.replace(settings, port=other.getsockname()[1])
        with pytest.raises(SettingsError, match="Choose another with --port"):
            start(taken)


def test_what_cannot_start_ends_with_a_sentence(settings, capsys):
    with pytest.raises(SystemExit) as stop:
        module.serve(SimpleNamespace(blocks={}), settings, share=True)
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("app.py: launch() may not be given share")


def test_an_address_of_another_machine_is_told_at_once(settings):
    with pytest.raises(SettingsError, match="Check --host"):
        start(dataclasses.replace(settings, host="203.0.113.1"))


def test_the_files_of_the_page_itself_are_kept():
    blocks = {
        1: SimpleNamespace(temp_files={"/t/example.png"}, keep_in_cache=set()),
        2: SimpleNamespace(temp_files=set(), keep_in_cache={"/t/first.png"}),
    }
    built = module._list_built_files(SimpleNamespace(blocks=blocks))
    blocks[1].temp_files.add("/t/later.png")
    assert built == {"/t/example.png", "/t/first.png"}
    assert module._list_built_files(SimpleNamespace(blocks={})) == set()


def test_gradio_is_told_to_keep_its_doors_shut(settings, tmp_path):
    folders = module.ServedFolders(settings.temp, settings.outputs)
    decided = module._build_launch_options(settings, folders)
    assert decided["share"] is False and decided["auth"] is None
    assert decided["allowed_paths"] == [str(settings.outputs)]
    root = Path(module.__file__).parents[1]
    for source in ("app.py", "studio", "pipelines"):
        assert any((root / source).is_relative_to(path) for path in decided["blocked_paths"])
    assert not any(settings.outputs.is_relative_to(path) for path in decided["blocked_paths"])
    for shut in ("ssr_mode", "run_history", "enable_monitoring", "show_error", "mcp_server"):
        assert decided[shut] is False
    assert decided["num_workers"] == 0


class Shown(SimpleNamespace):
    """As much of a page as `run_server` asks for."""

    def queue(self, **options):
        pass

    def launch(self, **options):
        import uvicorn

        self.believed = uvicorn.Config(app=None).forwarded_allow_ips
        return None, "http://127.0.0.1:1", None

    def close(self, verbose):
        pass


@pytest.mark.parametrize(("proxies", "believed"), [((), ""), (("127.0.0.1", "10.0.0.0/8"), "127.0.0.1,10.0.0.0/8")])
def test_a_program_of_this_machine_cannot_give_itself_an_address(settings, monkeypatch, proxies, believed):
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    monkeypatch.setattr(module, "prepare_environment", lambda temp: None)
    page = Shown(blocks={})
    with module.run_server(page, dataclasses.replace(settings, proxies=proxies)):
        pass
    assert page.believed == believed
