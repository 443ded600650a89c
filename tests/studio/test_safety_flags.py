"""The command line, the logins and the environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.core.errors import SettingsError, StoreError
from studio.safety.credentials import Credentials, read_pairs
from studio.safety.environment import prepare_environment
from studio.safety.flags import parse_flags, read_flags

ROOT = Path(__file__).resolve().parents[2]


def flags(*arguments: str, **environ: str):
    return parse_flags(arguments, environ)


def test_loopback_and_nobody_else_by_default():
    settings = flags()
    assert settings.host == "127.0.0.1"
    assert not settings.is_public and not settings.share and not settings.mcp
    assert not settings.browser


@pytest.mark.parametrize("door", [["--listen"], ["--share"], ["--host", "192.168.1.5"]])
def test_an_open_door_needs_a_login_or_a_second_word(door):
    with pytest.raises(SettingsError, match="--insecure-no-auth-i-know"):
        flags(*door)
    assert flags(*door, "--auth", "ann:pass").is_public
    assert flags(*door, "--insecure-no-auth-i-know").is_public


@pytest.mark.parametrize("host", ["localhost", "127.0.0.9", "::1"])
def test_loopback_needs_no_login(host):
    assert not flags("--host", host).is_public


def test_a_space_is_public_by_design_and_may_be_framed():
    settings = flags(SYSTEM="spaces", SPACE_ID="ann/stepwise")
    assert settings.host == "0.0.0.0"
    assert "huggingface.co" in settings.frame_ancestors
    assert "huggingface.co" not in flags().frame_ancestors
    assert flags().is_contained and not settings.is_contained


def test_nobody_says_who_asks_but_a_proxy_that_is_there():
    assert flags().trusted_proxies == ()  # uvicorn alone would believe every program of this machine
    assert flags("--root-path", "/studio").trusted_proxies == ("127.0.0.1", "::1")
    assert "10.0.0.0/8" in flags(SYSTEM="spaces", SPACE_ID="ann/stepwise").trusted_proxies
    assert flags("--root-path", "/studio", "--trust-proxy", "192.0.2.1").trusted_proxies == ("192.0.2.1",)
    with pytest.raises(SettingsError, match="not an address or network"):
        flags("--trust-proxy", "everybody")


def test_logins_come_from_flags_and_file(tmp_path):
    file = tmp_path / "logins"
    file.write_text("# people\n\nbob:a:b c\n")
    settings = flags("--auth", "ann:pass", "--auth-file", str(file))
    assert settings.credentials.check("ann", "pass")
    assert settings.credentials.check("bob", "a:b c")
    assert not settings.credentials.check("ann", "a:b c")
    assert not settings.credentials.check("ann", "")
    assert not settings.credentials.check("ännchen", "pass")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--auth", "SECRETWORD"],
        ["--auth", ":SECRETWORD"],
        ["--auth", "ann:SECRETWORD", "--auth", "ann:SECRETWORD"],
        ["--auht", "ann:SECRETWORD"],
        ["--auht=ann:SECRETWORD"],
        ["ann:SECRETWORD"],
        ["--port", "x", "--auth", "ann:SECRETWORD"],
    ],
)
def test_a_password_is_never_echoed(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        read_flags(arguments)
    shown = capsys.readouterr()
    assert stop.value.code == 2
    assert "SECRETWORD" not in shown.err + shown.out
    assert shown.err.count("\n") == 1 and shown.err.startswith("app.py: ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--device", "cuda:99"], "--device cuda:99 is not here"),
        (["--device", "cdua"], "--device 'cdua' is no device"),
        (["--device", ""], "--device '' is no device"),
        (["--device", "cpu,cpu"], "names a device twice"),
        (["--dtype", "fp8"], "choose from"),
        (["--attention", "natvie"], "--attention 'natvie' is no back end"),
        (["--chanels-last"], "Unknown flag --chanels-last"),
    ],
    ids=str,
)
def test_a_device_or_how_it_computes_spelled_wrong_ends_the_start_with_one_sentence(arguments, said, capsys):
    with pytest.raises(SystemExit):
        read_flags(arguments)
    shown = capsys.readouterr().err
    assert said in shown and shown.count("\n") == 1


def test_compiling_without_a_compiler_ends_the_start_with_one_sentence(capsys, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(SystemExit):
        read_flags(["--device", "cpu", "--compile"])
    shown = capsys.readouterr().err
    assert "--compile: PyTorch compiles it, and finds no C++ compiler here: install" in shown and shown.count("\n") == 1
    assert not flags("--device", "cpu").compile


def test_a_password_is_not_in_the_settings_text():
    assert "SECRETWORD" not in repr(flags("--auth", "ann:SECRETWORD"))


def test_credentials_keep_no_password():
    credentials = Credentials(["ann:SECRETWORD"])
    assert "SECRETWORD" not in repr(vars(credentials))


def test_every_pair_is_compared(monkeypatch):
    compared = []
    from studio.safety import credentials as module

    real = module.hmac.compare_digest
    monkeypatch.setattr(module.hmac, "compare_digest", lambda a, b: compared.append(1) or real(a, b))
    people = Credentials(["ann:one", "bob:two", "cem:three"])
    for user in ("ann", "cem", "nobody"):
        compared.clear()
        people.check(user, "wrong")
        assert len(compared) == 6


def test_a_file_of_logins_must_name_somebody(tmp_path):
    empty = tmp_path / "logins"
    empty.write_text("# nobody\n")
    with pytest.raises(SettingsError, match="names nobody"):
        read_pairs(empty)
    with pytest.raises(SettingsError, match="cannot be read"):
        read_pairs(tmp_path / "missing")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--port", "0"], "1 to 65535"),
        (["--port", "70000"], "1 to 65535"),
        (["--max-queue", "0"], "1 to 10000"),
        (["--memory-budget", "0"], "0.1 to 100000 GB"),
        (["--memory-budget", "nan"], "0.1 to 100000 GB"),
        (["--listen", "--host", "::1"], "two addresses"),
        (["--trust-origin", "example.org"], "https://example.org"),
        (["--root-path", "studio"], "begin with /"),
        (["--outputs-folder", __file__], "is a file"),
        (["--shar"], "Unknown flag --shar"),
    ],
)
def test_a_bad_flag_gets_a_sentence(arguments, says):
    with pytest.raises(SettingsError, match=says):
        flags(*arguments)


def test_folders_and_sizes_are_resolved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = flags("--outputs-folder", "out", "--memory-budget", "12.5", "--port", "8000")
    assert settings.outputs == tmp_path / "out"
    assert settings.memory_budget == 12_500_000_000
    assert settings.port == 8000


def test_the_environment_is_quiet_and_shut(tmp_path):
    environ = {"GRADIO_SHARE": "True", "GRADIO_VIBE_MODE": "1", "NO_PROXY": "example.org"}
    environ["GRADIO_ALLOWED_PATHS"] = "/"
    prepare_environment(tmp_path / "temp", environ)
    assert environ["GRADIO_ANALYTICS_ENABLED"] == "False"
    assert environ["HF_HUB_DISABLE_TELEMETRY"] == "1"
    assert environ["GRADIO_TEMP_DIR"] == str(tmp_path / "temp")
    assert "127.0.0.1" in environ["NO_PROXY"] and "example.org" in environ["NO_PROXY"]
    assert not environ.keys() & {"GRADIO_SHARE", "GRADIO_VIBE_MODE", "GRADIO_ALLOWED_PATHS"}
    before = dict(environ)
    prepare_environment(tmp_path / "temp", environ)
    assert environ == before


def test_a_folder_with_other_files_is_not_taken_for_temporary(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(StoreError, match="files of something else"):
        prepare_environment(tmp_path, {})


def test_an_unusable_temporary_folder_is_told_in_a_sentence(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(SystemExit) as stop:
        read_flags(["--temp-folder", str(tmp_path)])
    assert stop.value.code == 2
    assert "files of something else" in capsys.readouterr().err


def test_preparing_too_late_is_refused(tmp_path):
    program = (
        "import sys, types; sys.modules['gradio'] = types.ModuleType('gradio')\n"
        "from pathlib import Path\n"
        "from studio.safety.environment import prepare_environment\n"
        "prepare_environment(Path(sys.argv[1]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "temp")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert "EnvironmentOrderError" in done.stderr


def test_gradio_starts_without_writing_its_stubs(tmp_path):
    """Its components are whole, and no class of ours or of its own leaves a stub behind."""
    program = (
        "import sys; from pathlib import Path\n"
        "from studio.safety.environment import prepare_environment\n"
        "prepare_environment(Path(sys.argv[1]) / 'temp')\n"
        "import gradio.component_meta as meta\n"
        "from gradio.components import Textbox\n"
        "text = 'from gradio.components import Textbox\\nclass Own(Textbox):\\n    EVENTS = [\"change\"]\\n'\n"
        "(Path(sys.argv[1]) / 'own.py').write_text(text)\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "import own\n"
        "print(callable(own.Own.change), callable(Textbox.submit), meta.create_or_modify_pyi.__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    assert done.stdout.split() == ["True", "True", "<lambda>"]
    assert not list(tmp_path.glob("*.pyi"))


def test_importing_the_guards_imports_no_framework():
    program = (
        "import sys, studio.server.serve, studio.safety.protect\n"
        "print(sorted({'gradio', 'fastapi', 'starlette', 'PIL', 'torch'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.strip() == "[]"


def test_page_and_command_line_share_their_folders():
    from pipelines.models.folder_lists import models_folder
    from studio.results.files import get_default_folder

    settings = parse_flags([])
    assert (settings.models, settings.outputs) == (models_folder(), get_default_folder())


def test_threads_sleep_unless_told_otherwise():
    from studio.jobs.threads import let_threads_sleep

    environ = {}
    let_threads_sleep(environ)
    assert environ == {"OMP_WAIT_POLICY": "PASSIVE"}
    environ = {"OMP_WAIT_POLICY": "ACTIVE"}
    let_threads_sleep(environ)
    assert environ == {"OMP_WAIT_POLICY": "ACTIVE"}
    code = "import sys, app, studio.cli.main, studio.safety.environment; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_run_may_take_half_an_hour_where_others_come_in_and_as_long_as_it_likes_at_home():
    assert parse_flags([], {}).run_seconds == 12 * 3600
    assert parse_flags(["--listen", "--auth", "ann:1"], {}).run_seconds == 1800
    assert parse_flags(["--longest-run", "5"], {}).run_seconds == 300
    with pytest.raises(SettingsError, match="is not a time"):
        parse_flags(["--longest-run", "nan"], {})
