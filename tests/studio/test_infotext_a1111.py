"""The parameters text as people have it: what counts as one, where its settings are, and what its values may hold."""

from __future__ import annotations

import json

import pytest

from studio.infotext import read_texts

SETTINGS = "Steps: 25, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 42, Size: 512x768"
VALUES = {
    "prompt": "a red fox, forest",
    "negative_prompt": "blurry",
    "num_inference_steps": 25,
    "sampler": {"key": "dpmpp_2m"},
    "schedule": {"key": "karras"},
    "guidance": {"key": "cfg", "guidance_scale": 7.0},
    "seed": 42,
    "width": 512,
    "height": 768,
}
HEAD = "a red fox, forest\nNegative prompt: blurry\n"


def read(text: str):
    return read_texts({"parameters": text})


def test_lines_behind_the_settings_are_left_out_and_said():
    for behind in (
        "Template: a {red|blue} fox\nNegative Template: blurry",
        "Template: a\nSecond line of it",
        "\n\nMade by me",
    ):
        restored = read(f"{HEAD}{SETTINGS}, Version: v1.10.1\n{behind}")
        assert restored.values == VALUES
        assert any(behind.split()[0] in note for note in restored.notes)


def test_all_on_one_line_keeps_the_prompt():
    for joint in (".", " ", ", ", " | "):
        restored = read(joint.join(["a red fox, forest", "Negative prompt: blurry", SETTINGS]))
        assert restored.values == VALUES
        assert any("one line" in note for note in restored.notes)
    restored = read(f"a red fox, forest {SETTINGS}")
    assert restored.values == {**VALUES, "negative_prompt": ""}
    restored = read(f"a red fox, forest\nNegative prompt: blurry {SETTINGS}")
    assert restored.values["negative_prompt"] == "blurry" and restored.values["num_inference_steps"] == 25


def test_a_text_without_settings_has_its_two_prompts():
    restored = read("a castle, (sky:1.2)\nNegative prompt: (bad:1.2), (worst quality:1.4), (low:1.3)")
    assert restored.values == {
        "prompt": "a castle, (sky:1.2)",
        "negative_prompt": "(bad:1.2), (worst quality:1.4), (low:1.3)",
    }


def test_weights_in_the_last_line_are_no_settings():
    restored = read("a castle\nNegative prompt: bad\n(bad hands:1.2), (Steps: 1.4), low: 1.3, eyes: 2, feet: 3")
    assert restored.values["negative_prompt"].endswith("feet: 3") and set(restored.values) == {
        "prompt",
        "negative_prompt",
    }


@pytest.mark.parametrize(
    "text",
    [
        "filter: 0; captureOrientation: 0;\ndelta:1;\nmodule: photo;touch: (-1.0, -1.0);sceneMode: 0;"
        "AI_Scene: (-1, -1);aec_lux: 120.0;motionLevel: -1;info: sky: clear,icon:1,level:100;temperature: 30;",
        "Pancakes\nSteps: mix, pour, turn, Time: 20 min, Serves: 4",
        "Steps: 3, then left, Door: red, Bell: broken",
        "lens: 50 mm, iso: 100, shutter: 1/200",
        "OLYMPUS DIGITAL CAMERA",
        "Sunset at the lake. Negative prompt is not a word I know.",
        '{"Steps": 20, "Sampler": "Euler", "Seed": 5}',
        '{"a": "x\\nSteps: 20, Sampler: Euler, Seed: 5, CFG scale: 7"}',
        '[{"Steps: 20, Sampler: Euler, Seed: 5": 1}]',
        '{"broken": "Steps: 20, Sampler: Euler, Seed: 5, CFG scale: 7',
    ],
)
def test_what_is_no_parameters_text_changes_nothing(text):
    for name in ("parameters", "UserComment", "comment", "Comment", "ImageDescription", "Description"):
        assert read_texts({name: text}) is None


def test_a_prompt_that_is_not_there_is_not_emptied():
    restored = read(SETTINGS)
    assert "prompt" not in restored.values and "negative_prompt" not in restored.values
    assert any("carry no prompt" in note for note in restored.notes)
    restored = read(f"Negative prompt: blurry\n{SETTINGS}")
    assert "prompt" not in restored.values and restored.values["negative_prompt"] == "blurry"
    assert read(f"a fox\n{SETTINGS}").values["negative_prompt"] == ""  # A1111 writes the line unless it is empty


def test_settings_in_another_order_count():
    restored = read("a fox\nSize: 64x32, Seed: 7, Model: x, Sampler: Euler a")
    assert (restored.values["seed"], restored.values["width"], restored.values["sampler"]["key"]) == (7, 64, "euler_a")


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (json.dumps("one, two: three"), True),
        (json.dumps('with "quotes" and \\ backslash, Seed: 9'), True),
        ('"a raw\nline end, Seed: 9\nSteps: 99, Sampler: DDIM"', True),
        ('[{"type":"checkpoint","modelName":"Tool: Kit, Seed: 9"}]', True),
        ('{"model": "ab12", "lora:ink": "cd, Seed: 9"}', True),
        ('[{"modelName":"broken, Seed: 9"', False),
        ('"never closed, Seed: 9', False),
        ("plain text without end", True),
    ],
)
def test_a_value_overrules_no_other(value, kept):
    before = read(f"{HEAD}{SETTINGS}, Clip skip: 2, Odd name: {value}, Version: v1.10.1")
    assert before.values == VALUES
    after = read(f"{HEAD}Steps: 25, Odd name: {value}, {SETTINGS.removeprefix('Steps: 25, ')}")
    assert after.values == VALUES if kept else after.values["prompt"] == VALUES["prompt"]


def test_a_quoted_value_is_unquoted():
    restored = read(f'{HEAD}{SETTINGS}, Model: "fox, v2: \\"new\\" 狐"')
    assert restored.model == 'fox, v2: "new" 狐'


def test_windows_line_ends():
    assert read(f"{HEAD}{SETTINGS}".replace("\n", "\r\n")).values == VALUES


@pytest.mark.parametrize(
    ("name", "sampler", "schedule"),
    [
        ("DPM++ 3M SDE Exponential", "dpmpp_3m_sde", {"key": "exponential"}),
        ("DPM++ 2M Karras", "dpmpp_2m", {"key": "karras"}),
        ("DPM++ 2M SDE karras", "dpmpp_2m_sde", {"key": "karras"}),
        ("Euler a SGM Uniform", "euler_a", {"key": "uniform", "spacing": "trailing"}),
        ("LMS Karras", "lms", {"key": "karras"}),
        ("DPM++ 2M Align Your Steps", "dpmpp_2m", {"key": "align_your_steps"}),
        ("dpmpp_2m_sde_gpu_karras", "dpmpp_2m_sde", {"key": "karras"}),
        ("euler_ancestral", "euler_a", None),
        ("DDIM", "ddim", None),
        ("UniPC", "unipc", None),
    ],
)
def test_a_schedule_in_the_sampler_s_name_is_split_off(name, sampler, schedule):
    restored = read(f"x\nSteps: 25, Sampler: {name}, CFG scale: 7, Seed: 42, Version: v1.7.0")
    assert restored.values["sampler"] == {"key": sampler} and restored.values.get("schedule") == schedule
    assert restored.notes == []


def test_an_unknown_schedule_in_the_name_is_named():
    restored = read("x\nSteps: 25, Sampler: DPM++ 2M SDE Polyexponential, CFG scale: 7, Seed: 42")
    assert restored.values["sampler"] == {"key": "dpmpp_2m_sde"} and "schedule" not in restored.values
    assert any("'Polyexponential'" in note for note in restored.notes)


def test_civitai_s_resources_are_reported():
    resources = [
        {"type": "checkpoint", "modelVersionId": 1, "modelName": "Tool: Kit, Seed: 9", "modelVersionName": "v2"},
        {"type": "lora", "weight": 0.6, "modelName": "ink", "modelVersionName": "v1"},
        {"type": "lycoris", "weight": -0.5, "modelVersionId": 77},
        {"type": "embed", "modelName": "bad hands"},
    ]
    text = json.dumps(resources, separators=(",", ":"))
    restored = read(f"{HEAD}{SETTINGS}, Civitai resources: {text}, Civitai metadata: {{}}")
    assert restored.values == VALUES and restored.model == "Tool: Kit, Seed: 9, v2"
    assert restored.loras == ({"name": "ink, v1", "weight": 0.6}, {"name": "version 77 on Civitai", "weight": -0.5})
    assert any("'bad hands'" in note for note in restored.notes)


def test_fooocus_a1111_scheme():
    text = (
        f"{HEAD}Steps: 30, Sampler: DPM++ 2M SDE Karras, Seed: 1, Size: 1152x896, CFG scale: 4, Sharpness: 2, "
        'ADM Guidance: "(1.5, 0.8, 0.3)", Model: juggernautXL, Performance: Speed, Scheduler: karras, '
        "VAE: Default (model), "
        'Raw prompt: "a red fox,\\nforest", Lora hashes: "offset: 4852686128, ink: abc", '
        'Lora weights: "offset: 0.1, ink: 0.75", Version: Fooocus v2.5.5'
    )
    restored = read(text)
    assert restored.source == "fooocus" and restored.values["sampler"] == {"key": "dpmpp_2m_sde"}
    assert restored.values["schedule"] == {"key": "karras"} and restored.model == "juggernautXL"
    assert restored.loras == ({"name": "offset", "weight": 0.1}, {"name": "ink", "weight": 0.75})
    raw = read("x\nSteps: 30, Sampler: dpmpp_2m_sde_gpu, Seed: 1, Scheduler: sgm_uniform, Version: Fooocus v2.5.5")
    assert raw.values["sampler"] == {"key": "dpmpp_2m_sde"} and raw.values["schedule"]["spacing"] == "trailing"


def test_sd_next():
    restored = read(
        "Prompt: a red fox, forest\nNegative prompt: blurry\nSteps: 25, Size: 512x768, Sampler: UniPC, Seed: 42, "
        "CFG scale: 7, App: SD.Next, Version: 8d5bb4f, Operations: txt2img, Variation seed: 5, "
        "Variation strength: 0.25, "
        "Backend: Diffusers, Pipeline: StableDiffusionPipeline, Model: dream"
    )
    assert restored.source == "sdnext" and restored.values["prompt"] == "a red fox, forest"
    assert restored.values["sampler"] == {"key": "unipc"} and restored.values["variation_strength"] == 0.25
    default = read("a fox\nSteps: 20, Seed: 1, Sampler: Default, App: SD.Next")
    assert "sampler" not in default.values and default.notes == []


def test_draw_things_as_a_text():
    restored = read(
        "a red fox, forest\n-blurry\nSteps: 25, Sampler: DPM++ 2M Karras, Guidance Scale: 7.0, Seed: 42, "
        "Size: 512x768, Model: sd_v1.5_f16.ckpt, Strength: 1.0, Seed Mode: Scale Alike"
    )
    assert restored.source == "drawthings" and restored.values == VALUES
