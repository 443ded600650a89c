"""What PyTorch's files say of it is what it says itself."""

from __future__ import annotations

import pytest
import torch

from pipelines.core import torch_build

CPU = "cuda: Optional[str] = None\nhip: Optional[str] = None\nrocm: Optional[str] = None\nxpu: Optional[str] = None\n"


def refuse(name):
    raise OSError(f"{name}: cannot open shared object file")


@pytest.mark.parametrize(
    ("version", "platform", "load", "sure"),
    [
        (CPU, "linux", refuse, True),
        (CPU, "linux", str, True),
        (CPU, "darwin", refuse, False),
        (CPU.replace("cuda: Optional[str] = None", "cuda: Optional[str] = '12.8'"), "linux", refuse, True),
        (CPU.replace("cuda: Optional[str] = None", "cuda: Optional[str] = '12.8'"), "win32", refuse, True),
        (CPU.replace("cuda: Optional[str] = None", "cuda: Optional[str] = '12.8'"), "linux", str, False),
        (CPU.replace("hip: Optional[str] = None", "hip: Optional[str] = '6.4'"), "linux", refuse, False),
        (CPU.replace("xpu: Optional[str] = None", "xpu: Optional[str] = '20250'"), "linux", refuse, False),
        ("cuda = None\nhip = None\n", "linux", refuse, True),
        ("__version__ = '3'\n", "linux", refuse, False),
        (None, "linux", refuse, False),
    ],
)
def test_only_a_build_that_can_find_no_card_is_sure_of_it(tmp_path, version, platform, load, sure):
    if version is not None:
        (tmp_path / "version.py").write_text(version, encoding="utf-8")
    assert torch_build.has_only_processor(tmp_path, platform, load) is sure


def test_the_installed_build_is_read_as_it_answers(monkeypatch, tmp_path):
    answers = [torch_build.has_onednn(), torch_build.has_quantized_engines(), torch_build.has_vnni()]
    monkeypatch.setattr(torch_build, "_is_imported", lambda: False)
    assert answers == [torch_build.has_onednn(), torch_build.has_quantized_engines(), torch_build.has_vnni()]
    assert not torch_build.has_only_processor() or not (torch.cuda.is_available() or torch.xpu.is_available())
    (tmp_path / "cpuinfo").write_text("processor : 0\nflags\t\t: fpu avx512f avx512_vnni sse\n", encoding="utf-8")
    assert torch_build.has_vnni(tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text("processor : 0\nflags\t\t: fpu avx_vnni\n", encoding="utf-8")
    assert not torch_build.has_vnni(tmp_path / "cpuinfo")
