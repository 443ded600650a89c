"""The benchmark beside ComfyUI: what it says without one, and its table."""

from __future__ import annotations

from studio.benchmarks.peers import format_rows, main


def test_without_a_checkout_a_sentence_says_that_nothing_was_measured(capsys, tmp_path):
    for arguments in ([], ["--comfyui", str(tmp_path)]):
        assert main(arguments) == 0
        assert capsys.readouterr().out.startswith("Nothing was measured: give the folder of a checkout of ComfyUI")


def test_the_table_has_the_least_of_each_sides_rounds():
    names = ("sampling", "decode", "load", "unchanged")

    def build_round(wall: float, processor: float, memory: float) -> dict[str, list[float]]:
        return {**{name: [wall, processor] for name in names}, "memory": [memory]}

    ours, theirs = [build_round(9.0, 4.0, 3e9), build_round(6.0, 5.0, 2e9)], [build_round(8.0, 8.0, 4e9)]
    lines = list(format_rows({1: ours}, {1: theirs}))
    assert "| 256², 4 steps, one thread | ≤ 0.85 | 0.50 | 0.75 | 4 s, 8 s of the processor |" in lines
    assert "| memory after a run | ≤ 0.95 | – | 0.50 | 2.00 GB, 4.00 GB |" in lines
    assert not any("two threads" in line for line in lines)
