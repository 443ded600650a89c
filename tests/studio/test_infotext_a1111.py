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
        assert restored.values == {**VALUES, "made_like": {"key": "a1111_gpu"}}
        assert any(behind.split()[0] in note for note in restored.notes)


def test_all_on_one_line_keeps_the_prompt():
    for joint in (".", " ", ", ", " | "):
        restored = read(joint.join(["a red fox, forest", "Negative prompt: blurry", SETTINGS]))
        assert restored.values == VALUES
        assert any("one line" in note for note in restored.notes)
    restored = read(f"a red fox, forest {SETTINGS}")
    assert restored.values == {name: value for name, value in VALUES.items() if name != "negative_prompt"}
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
    restored = read(f"a fox\n{SETTINGS}")
    # A1111 writes no line for an empty negative prompt, and a site that shows a part of the text none at all.
    assert restored.values["prompt"] == "a fox" and "negative_prompt" not in restored.values
    assert any("carry no negative prompt" in note for note in restored.notes)
    restored = read(f"a fox\nNegative prompt:\n{SETTINGS}")
    assert restored.values["negative_prompt"] == "" and restored.notes == []


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
    assert before.values == {**VALUES, "made_like": {"key": "a1111_gpu", "clip_skip": 2}}
    after = read(f"{HEAD}Steps: 25, Odd name: {value}, {SETTINGS.removeprefix('Steps: 25, ')}")
    assert after.values == VALUES if kept else after.values["prompt"] == VALUES["prompt"]


def test_a_quoted_value_is_unquoted():
    restored = read(f'{HEAD}{SETTINGS}, Model: "fox, v2: \\"new\\" 狐"')
    assert restored.model == 'fox, v2: "new" 狐'


@pytest.mark.parametrize("line_end", ["\r", "\r\n"])
def test_line_ends_of_other_systems(line_end):
    restored = read((HEAD.replace("forest", "forest.\nnight.") + SETTINGS).replace("\n", line_end))
    assert restored.values == {**VALUES, "prompt": "a red fox, forest.\nnight."} and not restored.notes


@pytest.mark.parametrize("text", ["\ufeff{}", "{}\0", "{}\0\0\n", "\ufeff{}\r\0"])
def test_marks_and_zeros_around_the_text_belong_to_nothing(text):
    assert read(text.replace("{}", HEAD + SETTINGS)).values == VALUES


@pytest.mark.parametrize("prompt", ['["a neon sign"], forest', '{"a"|b} fox', "[[a fox]]", '["a"|"b"]', "{}{}"])
def test_a_prompt_may_begin_like_json(prompt):
    assert read(f"{prompt}\nNegative prompt: blurry\n{SETTINGS}").values == {**VALUES, "prompt": prompt}
    assert read(f'{prompt}\n{SETTINGS}, Hashes: {{"model": "a"}}').values["prompt"] == prompt


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"prompt": f"a\n{SETTINGS}"}),
        '{"prompt": "a\n' + SETTINGS + '"}',
        '[["a\n' + SETTINGS + '"]]',
        '{"prompt": "a", "parameters": "' + SETTINGS,
        "[" * 10_000,
    ],
)
def test_json_is_never_a_parameters_text(text):
    assert read(text) is None


def test_windows_line_ends():
    assert read(f"{HEAD}{SETTINGS}".replace("\n", "\r\n")).values == VALUES


@pytest.mark.parametrize(
    ("name", "sampler", "schedule"),
    [
        ("DPM++ 3M SDE Exponential", "dpmpp_3m_sde", {"key": "exponential"}),
        ("DPM++ 2M Karras", "dpmpp_2m", {"key": "karras"}),
        ("DPM++ 2M SDE karras", "dpmpp_2m_sde", {"key": "karras"}),
        ("Euler a SGM Uniform", "euler_a", {"key": "uniform", "spacing": "sgm"}),
        ("LMS Karras", "lms", {"key": "karras"}),
        ("DPM++ 2M Align Your Steps", "dpmpp_2m", {"key": "align_your_steps"}),
        ("dpmpp_2m_sde_gpu_karras", "dpmpp_2m_sde", {"key": "karras"}),
        ("euler_ancestral", "euler_a", None),
        ("DDIM", "ddim", None),
        ("UniPC", "unipc", None),
    ],
)
def test_a_schedule_in_the_sampler_s_name_is_split_off(name, sampler, schedule):
    restored = read(f"x\nNegative prompt: y\nSteps: 25, Sampler: {name}, CFG scale: 7, Seed: 42, Version: v1.7.0")
    assert restored.values["sampler"]["key"] == sampler and restored.values.get("schedule") == schedule
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
    assert raw.values["sampler"] == {"key": "dpmpp_2m_sde"} and raw.values["schedule"]["spacing"] == "sgm"


def test_sd_next():
    restored = read(
        "Prompt: a red fox, forest\nNegative prompt: blurry\nSteps: 25, Size: 512x768, Sampler: UniPC, Seed: 42, "
        "CFG scale: 7, App: SD.Next, Version: 8d5bb4f, Operations: txt2img, Variation seed: 5, "
        "Variation strength: 0.25, "
        "Backend: Diffusers, Pipeline: StableDiffusionPipeline, Model: dream"
    )
    assert restored.source == "sdnext" and restored.values["prompt"] == "a red fox, forest"
    assert restored.values["sampler"] == {"key": "unipc"} and restored.values["variation_strength"] == 0.25
    default = read("a fox\nNegative prompt: y\nSteps: 20, Seed: 1, Sampler: Default, App: SD.Next")
    assert "sampler" not in default.values and default.notes == []


def test_draw_things_as_a_text():
    restored = read(
        "a red fox, forest\n-blurry\nSteps: 25, Sampler: DPM++ 2M Karras, Guidance Scale: 7.0, Seed: 42, "
        "Size: 512x768, Model: sd_v1.5_f16.ckpt, Strength: 1.0, Seed Mode: Scale Alike"
    )
    assert restored.source == "drawthings" and restored.values == VALUES


def rules(text: str) -> dict:
    """The methods and the program that a text of the web UI restores."""
    values = read(f"a fox\nSteps: 20, {text}, CFG scale: 7, Seed: 42, Size: 512x512, Version: v1.10.1").values
    return {name: values[name] for name in ("sampler", "schedule", "made_like") if name in values}


def test_the_web_uis_rules_are_taken_over():
    assert rules("Sampler: Euler a, Schedule type: Karras, RNG: CPU, ENSD: 31337, Eta: 0.5") == {
        "sampler": {"key": "euler_a", "eta": 0.5},
        "schedule": {"key": "karras"},
        "made_like": {"key": "a1111_cpu", "ensd": 31337},
    }
    assert rules("Sampler: DPM++ 2M, Schedule type: Karras, Schedule max sigma: 10, Schedule rho: 5, RNG: NV") == {
        "sampler": {"key": "dpmpp_2m"},
        "schedule": {"key": "karras", "sigma_max": 10.0, "rho": 5.0},
        "made_like": {"key": "a1111_gpu"},
    }
    assert rules("Sampler: UniPC, Schedule type: Karras")["sampler"] == {"key": "unipc", "order": 3, "variant": "bh1"}


def test_automatic_schedules_are_those_of_the_version():
    spaced = {"key": "uniform", "spacing": "linspace unrounded"}
    for sampler, schedule in (("DPM++ 2M", "karras"), ("DPM++ 3M SDE", "exponential"), ("DPM2 a", "karras")):
        assert rules(f"Sampler: {sampler}, Schedule type: Automatic")["schedule"] == {"key": schedule}
        old = read(f"a fox\nSteps: 20, Sampler: {sampler}, CFG scale: 7, Seed: 42, Size: 512x512, Version: v1.6.0")
        assert old.values["schedule"] == spaced
    assert rules("Sampler: Euler, Schedule type: Automatic")["schedule"] == spaced


WHOLE = (
    "a fox\nNegative prompt: blurry\nSteps: 20, Sampler: Euler, Schedule type: Karras, CFG scale: 7, Seed: 4, "
    "Size: 512x512, {}, Version: v1.10.1"
)


def test_nothing_that_changes_a_picture_vanishes_silently():
    plain = read(WHOLE.format("RNG: CPU"))
    assert plain.equality.startswith("Same as A1111 1.10 with the same Stable Diffusion 1, 2 or SDXL checkpoint")
    for said, word in (
        *(("Clip skip: 20", "clip skip"), ("Emphasis: Loud", "emphasis"), ("NGMS: 1.5", "negative")),
        *(("ADetailer model: face.pt", "ADetailer model"), ("Tiling: True", "Tiling")),
        *(('ControlNet 0: "Module: none, Model: x"', "ControlNet 0"), ('TI hashes: "a: 1"', "embeddings")),
        *(("freeu_enabled: True", "freeu_enabled"), ("Token merging ratio: 0.5", "Token merging ratio")),
    ):
        restored = read(WHOLE.format(f"RNG: CPU, {said}"))
        assert restored.equality.startswith("May differ from A1111 1.10's picture: ") and word in restored.equality
    for setting in ("Seed: 4, ", "CFG scale: 7, ", "Size: 512x512, ", "Negative prompt: blurry\n"):
        restored = read(WHOLE.format("RNG: CPU").replace(setting, ""))
        assert "does not say all of its settings" in restored.equality
    decoded = read(WHOLE.format("RNG: CPU, VAE: x.safetensors"))
    assert decoded.values["vae"] == {"key": "file", "name": "x.safetensors"} and decoded.equality == plain.equality
    followed = read(WHOLE.format("RNG: CPU, Clip skip: 2, Emphasis: No norm"))
    assert followed.values["made_like"] == {"key": "a1111_cpu", "clip_skip": 2, "emphasis": "No norm"}
    assert followed.equality == plain.equality
    unknown = read("a fox\nSteps: 20, Sampler: Euler, Seed: 4")
    assert unknown.equality == "" and "made_like" not in unknown.values
    on_gpu = read(WHOLE.format("Model: m"))
    assert on_gpu.values["made_like"]["key"] == "a1111_gpu"
    assert "no whole run on a GPU was compared" in on_gpu.equality


@pytest.mark.parametrize("first", ["Seed: 5", "Sampler: Euler a", "CFG scale: 7", "Size: 64x96"])
def test_settings_may_begin_with_any_of_them(first):
    rest = [one for one in ("Steps: 20", "Seed: 5", "Sampler: Euler a", "CFG scale: 7", "Size: 64x96") if one != first]
    restored = read(f"a fox\nNegative prompt: blurry\n{', '.join([first, *rest])}")
    assert (restored.values["prompt"], restored.values["negative_prompt"]) == ("a fox", "blurry")
    assert (restored.values["seed"], restored.values["num_inference_steps"]) == (5, 20)
    assert not any("one line" in note for note in restored.notes)


def test_civitai_s_resources_without_a_name_have_their_version():
    resources = (
        '[{"air":"urn:air:sdxl:checkpoint:civitai:101055@128078"},'
        '{"type":"lora","strength":0.5,"air":"urn:air:sdxl:lora:civitai:11@22"}]'
    )
    restored = read(
        f"a fox\nSteps: 20, Sampler: Euler, Seed: 2, Civitai resources: {resources}, Civitai metadata: {{}}"
    )
    assert restored.model == "version 128078 on Civitai"
    assert restored.loras == ({"name": "version 22 on Civitai", "weight": 0.5},)
