"""PIE-Bench: both layouts of a tiny made-up copy read the same, the border rule, and metrics of known pictures."""

from __future__ import annotations

import io
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTConfig, ViTModel

from pipelines.benchmarks import edits as benchmark
from pipelines.benchmarks.edit_cases import Combination
from pipelines.benchmarks.pie_bench import SIDE, decode_mask, read_pie_bench
from pipelines.benchmarks.pie_bench_metrics import PUBLISHED, Dino, PieJudges, average, measure_edit
from pipelines.benchmarks.pie_bench_run import build_pie_request, write_pie_table
from pipelines.core.errors import SettingsError
from pipelines.metrics.lpips_squeeze import SqueezeLpips, build_squeeze_lpips

PIXELS = np.kron(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8), np.ones((32, 32, 1), np.uint8))
ROWS = {
    "000000000001": {
        "image_path": "0_random_140/000000000001.jpg",
        "original_prompt": "a [fox] on a green background",
        "editing_prompt": "a [cat] on a green background",
        "editing_instruction": "turn the fox into a cat",
        "editing_type_id": "0",
        "blended_word": "fox cat",
        "mask": [5 * SIDE + 10, 20, 6 * SIDE + 10, 20],
    },
    "000000000002": {
        "image_path": "1_change_object_80/000000000002.jpg",
        "original_prompt": "a fox",
        "editing_prompt": "a fox on the moon",
        "editing_instruction": "",
        "editing_type_id": "1",
        "blended_word": "",
        "mask": [0, SIDE * SIDE],
    },
}


def content():
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pie")
    for row in ROWS.values():
        path = folder / "data" / "annotation_images" / row["image_path"]
        path.parent.mkdir(parents=True)
        path.write_bytes(content())
    (folder / "data" / "mapping_file.json").write_text(json.dumps(ROWS))
    return folder


def test_the_official_folder_is_read(official):
    first, second = read_pie_bench(official)
    assert first.source_prompt == "a fox on a green background" and first.target_prompt.startswith("a cat on")
    assert first.blended == ("fox", "cat") and second.blended == () and (first.kind, second.kind) == ("0", "1")
    assert np.array_equal(first.picture, PIXELS) and second.mask.all()
    assert [one.key for one in read_pie_bench(official / "data")] == list(ROWS)


@pytest.mark.parametrize("mask_form", [list, str])
def test_the_parquet_mirror_is_read_as_the_official_folder_is(official, tmp_path, mask_form):
    pyarrow = pytest.importorskip("pyarrow", reason="pip install -r requirements-pie-bench.txt")
    parquet = pytest.importorskip("pyarrow.parquet")
    for key, row in ROWS.items():
        table = {
            "image": [{"bytes": content(), "path": "x.jpg"}],
            "id": [key],
            "source_prompt": [row["original_prompt"]],
            "target_prompt": [row["editing_prompt"]],
            "edit_action": ["{}"],
            "aspect_mapping": ["{}"],
            "blended_words": [row["blended_word"]],
            "mask": [mask_form(row["mask"])],
        }
        path = tmp_path / row["image_path"].split("/")[0] / "V1-00000-of-00001.parquet"
        path.parent.mkdir()
        parquet.write_table(pyarrow.table(table), path)
    for ours, theirs in zip(read_pie_bench(tmp_path), read_pie_bench(official), strict=True):
        assert (ours.key, ours.kind, ours.blended) == (theirs.key, theirs.kind, theirs.blended)
        assert (ours.source_prompt, ours.target_prompt) == (theirs.source_prompt, theirs.target_prompt)
        assert np.array_equal(ours.picture, theirs.picture) and np.array_equal(ours.mask, theirs.mask)


def test_without_its_package_the_mirror_says_how_to_install_it(tmp_path, monkeypatch):
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(SettingsError, match=r"pip install -r requirements-pie-bench.txt"):
        list(read_pie_bench(tmp_path))
    with pytest.raises(SettingsError, match="neither"):
        read_pie_bench(tmp_path / "none")


def test_a_masks_runs_count_from_zero_by_rows_and_the_border_is_set():
    mask = decode_mask([5 * SIDE + 10, 20])
    assert mask[5, 10:30].all() and not mask[5, [1, 9, 30]].any() and not mask[6, 10]
    assert mask[0].all() and mask[-1].all() and mask[:, 0].all() and mask[:, -1].all()
    assert mask.sum() == 20 + 4 * SIDE - 4
    for wrong, said in (([1], "in pairs"), ([SIDE * SIDE - 1, 2], "leaves the picture"), ([-1, 2], "leaves")):
        with pytest.raises(SettingsError, match=said):
            decode_mask(wrong)


def test_what_is_edited_does_not_count_and_what_should_stay_does(official):
    first, second = read_pie_bench(official)
    judges = PieJudges(None, None, lambda prompt: lambda images: images.mean((1, 2, 3)) * 100)
    inside = np.where(first.mask[..., None], 255 - PIXELS, PIXELS).astype(np.uint8)
    kept = measure_edit(inside, first, judges)
    assert math.isinf(kept.psnr) and kept.mse == 0 and kept.ssim == pytest.approx(1, abs=1e-12)
    assert 0 < kept.clip_edited < kept.clip_whole and math.isnan(kept.lpips) and math.isnan(kept.structure)
    lighter = np.clip(PIXELS.astype(int) + 10, 0, 255).astype(np.uint8)
    changed = measure_edit(lighter, first, judges)
    outside = ~first.mask
    error = ((lighter[outside] / 255 - PIXELS[outside] / 255) ** 2).sum() / (3 * SIDE * SIDE)
    assert changed.mse == pytest.approx(error, rel=1e-12) and changed.psnr == pytest.approx(-10 * math.log10(error))
    empty = measure_edit(lighter, second, judges)
    assert math.isnan(empty.psnr) and math.isnan(empty.mse) and math.isnan(empty.ssim)
    means = average([changed, empty])
    assert means[3] == pytest.approx(1e4 * error) and math.isnan(means[0])
    table = write_pie_table({"Ours": [changed, empty]}, ["LPIPS is missing."])
    assert f"| Ours | 2 | – | {changed.psnr:.2f} | – |" in table and table.endswith("LPIPS is missing.")
    assert table.count("(its authors' figures)") == len(PUBLISHED) == 9


def test_structure_is_that_of_keys_of_the_last_layer_and_squeeze_is_a_distance():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    dino = Dino(ViTModel(ViTConfig(**sizes, image_size=224, patch_size=56)))
    keys = dino.keys(PIXELS)
    assert keys.shape == (1 + 16, 16) and torch.equal(keys, dino.keys(PIXELS))
    assert not torch.allclose(keys, dino.keys(PIXELS[::-1]))
    metric = SqueezeLpips()
    state = {f"lin{i}.model.1.weight": weight.reshape(1, -1, 1, 1) for i, weight in enumerate(metric.weights)}
    places = ["slice1.0", *(f"slice{n}" for n in ("2.3", "2.4", "3.6", "3.7", "4.9", "5.10", "6.11", "7.12"))]
    for place, part in zip(places, metric.convolutions, strict=True):
        state |= {f"net.{place}.{name}": value.clone() for name, value in part.state_dict().items()}
    again = build_squeeze_lpips(state)
    small = PIXELS[:64, :64]
    assert again.between(small, small) == 0
    assert again.between(small, small[::-1]) == metric.between(small, small[::-1]) > 0
    assert [part.shape[1] for part in again.features(torch.zeros(1, 3, 64, 64))] == [64, 128, 256, 384, 384, 512, 512]


def test_the_named_words_are_weighed_and_blended_and_the_command_runs(official, tmp_path, capsys):
    first, second = read_pie_bench(official)
    one = Combination("refine", "direct", 7.5)
    edit = build_pie_request(first, one, 2, 64).edit
    assert edit.key == "reweight" and edit.settings["words"] == "cat=2" and edit.settings["blend"] == "fox, cat"
    assert build_pie_request(second, one, 2, 64).edit.key == "refine"
    flags = ["--pie-bench", str(official), "--models", str(tmp_path), "--steps", "2", "--pairs", "1", "--scales", "4"]
    assert benchmark.main([*flags, "--only", "refine", "direct", "infedit"]) == 0
    printed = capsys.readouterr().out
    assert "| InfEdit, guidance 4 | 1 | – | " in printed and "Prompt-to-prompt: refine, Direct Inversion" in printed
    assert "facebook/dino-vitb8" in printed and "openai/clip-vit-large-patch14" in printed
