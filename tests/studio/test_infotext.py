"""The settings in a picture: exact text, round trips, other programs' files, and hostile ones."""

from __future__ import annotations

import io
import json
import random
import time

import pytest
from PIL import Image, PngImagePlugin

from pipelines.core.errors import PictureError, StoreError
from pipelines.core.types import MAX_PROMPT, Choice, LoraChoice, Request
from studio.infotext import Labels, read, read_texts, write
from studio.infotext.embed import encode, texts
from studio.infotext.names import SAMPLERS, SCHEDULES

NASTY = [
    "a cat",
    "two lines\nand a third\n\nafter an empty one",
    "Steps: 3, Sampler: Euler, CFG scale: 9, Seed: 7",
    "first\nSteps: 3, Sampler: Euler, CFG scale: 9, Seed: 7",
    "commas, \"quotes\", \\backslashes\\ and 'more'",
    "emoji 🐈‍⬛ 😀, 漢字, ümläut, العربية",
    "colons: everywhere: (word:1.2), [a:b:0.5]",
    "Negative  prompt: with two blanks is no marker",
    "says Negative prompt: in the middle of a line",
    '<b>html & {json: "x"}</b> %s {0} $HOME ../../etc/passwd',
    "x" * MAX_PROMPT,
]


def payload(request: Request, **head) -> str:
    return json.dumps({"stepwise": 1, **head, "metadata": {"request": request.to_json()}}, ensure_ascii=False)


def reopened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def png_with(**chunks: str) -> Image.Image:
    info = PngImagePlugin.PngInfo()
    for name, text in chunks.items():
        info.add_text(name, text)
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG", pnginfo=info)
    return reopened(buffer.getvalue())


def some_request(draw: random.Random) -> Request:
    return Request(
        prompt=draw.choice(NASTY),
        negative_prompt=draw.choice(["", *NASTY]),
        sampler=Choice(draw.choice([row.key for row in SAMPLERS])),
        schedule=draw.choice([Choice(row.key, row.setting) for row in SCHEDULES]),
        guidance=Choice("cfg", {"guidance_scale": draw.choice([1.0, 4.0, 7.5, 0.1])}),
        num_inference_steps=draw.randint(1, 200),
        width=8 * draw.randint(4, 200),
        height=8 * draw.randint(4, 200),
        seed=draw.choice([0, 1, 2**32, 2**63 - 1]),
        variation_seed=draw.randint(0, 2**40),
        variation_strength=draw.choice([0.0, 0.25, 1.0]),
        batch_size=draw.randint(1, 4),
        loras=tuple(
            LoraChoice(name, draw.choice([1.0, 0.5, -0.75]))
            for name in draw.sample(["ink", "a b-c_d", "x.y"], draw.randint(0, 3))
        ),
    )


# Writing.


def test_the_text_is_exactly_what_other_programs_read():
    request = Request(
        prompt="a cat,\nsitting",
        negative_prompt="blurry",
        sampler=Choice("dpmpp_2m"),
        schedule=Choice("karras"),
        guidance=Choice("cfg", {"guidance_scale": 4.0}),
        seed=1,
        variation_seed=5,
        variation_strength=0.25,
        loras=(LoraChoice("ink", 0.8),),
    )
    labels = Labels(
        model="Emoji: small, 64",
        model_hash="0123456789",
        width=64,
        height=96,
        lora_hashes={"ink": "ab12", "b": "cd34"},
        version="stepwise 1",
    )
    assert write(request.to_json(), labels) == (
        "a cat,\nsitting <lora:ink:0.8>\n"
        "Negative prompt: blurry\n"
        "Steps: 25, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 4, Seed: 1, Size: 64x96, Model hash: 0123456789, "
        'Model: "Emoji: small, 64", Variation seed: 5, Variation seed strength: 0.25, Lora hashes: "ink: ab12, b: cd34", '
        "Version: stepwise 1"
    )


def test_what_the_request_leaves_open_is_left_out():
    assert write(Request(prompt="").to_json()) == "Steps: 25, Sampler: DPM++ 2M, Seed: 0, Model: emoji"


# Round trips.


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_our_json_restores_an_equal_request(format):
    draw = random.Random(format)
    for _ in range(40):
        request = some_request(draw)
        picture = reopened(encode(Image.new("RGB", (8, 8)), format, write(request.to_json()), payload(request)))
        restored = read(picture)
        assert restored.source == "stepwise" and restored.notes == []
        assert Request.parse(restored.with_named_models()) == request
        assert "model" not in restored.values and "loras" not in restored.values


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_the_parameters_text_survives_each_format(format):
    for prompt in NASTY:
        text = write(Request(prompt=prompt, negative_prompt=prompt[:500]).to_json())
        assert texts(reopened(encode(Image.new("RGB", (8, 8)), format, text, "{}")))["parameters"] == text


def test_the_text_alone_restores_what_its_syntax_carries():
    draw = random.Random(1)
    for _ in range(300):
        request = some_request(draw)
        restored = read_texts({"parameters": write(request.to_json())})
        values = Request.parse(restored.with_named_models())
        if not request.variation_strength:  # then the text has no variation seed
            request = request.replace(variation_seed=0)
        assert values.replace(batch_size=request.batch_size) == request


def test_a_line_that_begins_the_negative_prompt_splits_where_it_does_elsewhere():
    restored = read_texts({"parameters": write(Request(prompt="a\nNegative prompt: b").to_json())})
    assert (restored.values["prompt"], restored.values["negative_prompt"]) == ("a", "b")


def test_every_sampler_and_schedule_name_leads_back_to_its_own_key():
    for table, field in ((SAMPLERS, "Sampler"), (SCHEDULES, "Schedule type")):
        for row in table:
            for name in row.a1111:
                restored = read_texts({"parameters": f"x\nSteps: 5, {field}: {name}, Seed: 1"})
                assert restored.values[field.split()[0].lower()] == {"key": row.key, **row.setting}
                assert restored.notes == []


def test_a_jpeg_too_full_for_both_texts_keeps_our_json():
    request = Request(prompt="😀" * MAX_PROMPT, negative_prompt="🐈" * MAX_PROMPT)
    picture = reopened(encode(Image.new("RGB", (8, 8)), "jpeg", write(request.to_json()), payload(request)))
    assert Request.parse(read(picture).with_named_models()) == request


def test_a_picture_is_written_in_any_mode():
    for mode in ("1", "L", "P", "RGB", "RGBA", "CMYK", "LA", "I;16"):
        for format in ("png", "jpeg", "webp"):
            assert reopened(encode(Image.new(mode, (9, 7)), format, "", "{}")).size == (9, 7)
    with pytest.raises(StoreError, match="Choose one of: png, jpeg, webp"):
        encode(Image.new("RGB", (8, 8)), "exe", "", "{}")
    with pytest.raises(StoreError, match="Save it as png"):
        encode(Image.new("L", (17000, 1)), "webp", "", "{}")


def test_the_user_comment_is_what_a1111_writes_and_either_byte_order_is_read():
    text = "a cät\nSteps: 5, Sampler: Euler, Seed: 3"
    comment = reopened(encode(Image.new("RGB", (8, 8)), "jpeg", text, "{}")).getexif().get_ifd(0x8769)[0x9286]
    assert comment == b"UNICODE\0" + text.encode("utf-16-be")
    for body in (text.encode("utf-16-le"), text.encode("utf-16")):
        exif = Image.Exif()
        exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + body
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8)).save(buffer, "JPEG", exif=exif)
        assert read(reopened(buffer.getvalue())).values["seed"] == 3


# Other programs.


def test_a1111_and_forge():
    text = (
        "girl with a beret, ((eyeshadow)) <lora:ink:0.7:0.5>\nNegative prompt: ugly, fat\n[blurry]\n"
        "Steps: 20, Sampler: Euler a, Schedule type: SGM Uniform, CFG scale: 7, Seed: 965400086, Size: 512x768, "
        'Model hash: 45dee52b, Model: v1-5, Clip skip: 2, Hires upscale: 2, Lora hashes: "ink: 1f", Version: v1.10.1'
    )
    restored = read(png_with(parameters=text))
    assert restored.source == "a1111"
    assert restored.values == {
        "prompt": "girl with a beret, ((eyeshadow))",
        "negative_prompt": "ugly, fat\n[blurry]",
        "num_inference_steps": 20,
        "sampler": {"key": "euler_a"},
        "schedule": {"key": "uniform", "spacing": "trailing"},
        "guidance": {"key": "cfg", "guidance_scale": 7.0},
        "seed": 965400086,
        "width": 512,
        "height": 768,
    }
    assert restored.model == "v1-5" and restored.loras == ({"name": "ink", "weight": 0.7},)
    assert any("Clip skip, Hires upscale" in note for note in restored.notes)
    assert any("'v1-5'" in note for note in restored.notes) and any("'ink' at 0.7" in note for note in restored.notes)
    flux = read_texts(
        {
            "parameters": "x\nSteps: 20, Sampler: Euler, Schedule type: Simple, CFG scale: 1, Distilled CFG Scale: 3.5, "
            "Seed: 1, Size: 64x64, Version: f2.0.1v1.10.1-previous-1"
        }
    )
    assert flux.source == "forge" and flux.values["guidance"]["guidance_scale"] == 3.5


def test_samplers_of_others_are_reported_not_guessed():
    old = read_texts({"parameters": "x\nSteps: 20, Sampler: DPM++ 2M Karras, CFG scale: 7, Seed: 1"})
    assert old.values["sampler"] == {"key": "dpmpp_2m"} and old.values["schedule"] == {"key": "karras"}
    for name in ("DPM++ 2S a", "DPM fast", "Restart"):
        restored = read_texts({"parameters": f"x\nSteps: 20, Sampler: {name}, Schedule type: KL Optimal, Seed: 1"})
        assert "sampler" not in restored.values and "schedule" not in restored.values
        assert any(name in note for note in restored.notes) and any("KL Optimal" in note for note in restored.notes)


COMFY = {
    "3": {
        "class_type": "KSampler",
        "inputs": {
            "seed": 18446744073709551615,
            "steps": 20,
            "cfg": 8,
            "sampler_name": "euler_ancestral",
            "scheduler": "normal",
            "denoise": 1,
            "model": ["10", 0],
            "positive": ["12", 0],
            "negative": ["7", 0],
            "latent_image": ["5", 0],
        },
    },
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "../../v1-5.ckpt"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 640, "batch_size": 1}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": ["13", 0], "clip": ["4", 1]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "watermark", "clip": ["4", 1]}},
    "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}, "is_changed": [float("nan")]},
    "10": {
        "class_type": "LoraLoader",
        "inputs": {"lora_name": "ink.safetensors", "strength_model": 0.6, "model": ["4", 0], "clip": ["4", 1]},
    },
    "12": {
        "class_type": "ControlNetApplyAdvanced",
        "inputs": {"positive": ["6", 0], "negative": ["7", 0], "strength": 1.0},
    },
    "13": {"class_type": "PrimitiveString", "inputs": {"value": "a bottle"}},
}


def test_comfyui_prompt():
    restored = read(png_with(prompt=json.dumps(COMFY), workflow="{}"))
    assert restored.source == "comfyui"
    assert restored.values == {
        "prompt": "a bottle",
        "negative_prompt": "watermark",
        "num_inference_steps": 20,
        "width": 512,
        "height": 640,
        "guidance": {"key": "cfg", "guidance_scale": 8.0},
        "sampler": {"key": "euler_a"},
        "schedule": {"key": "uniform", "spacing": "linspace"},
    }
    assert restored.model == "../../v1-5.ckpt" and restored.loras[0]["name"] == "ink.safetensors"
    assert any("seed" in note for note in restored.notes)


def test_comfyui_reads_the_sampler_that_starts_from_nothing():
    graph = json.loads(json.dumps(COMFY))
    graph["3"]["inputs"]["seed"] = 9
    refiner = {"class_type": "KSampler", "inputs": {**graph["3"]["inputs"], "seed": 4, "latent_image": ["3", 0]}}
    restored = read_texts({"prompt": json.dumps({"1": refiner, **graph})})
    assert restored.values["seed"] == 9 and any("2 samplers" in note for note in restored.notes)


def test_comfyui_flux_with_custom_sampler():
    graph = {
        "13": {
            "class_type": "SamplerCustomAdvanced",
            "inputs": {
                "noise": ["25", 0],
                "guider": ["22", 0],
                "sampler": ["16", 0],
                "sigmas": ["17", 0],
                "latent_image": ["27", 0],
            },
        },
        "25": {"class_type": "RandomNoise", "inputs": {"noise_seed": 42}},
        "22": {"class_type": "BasicGuider", "inputs": {"model": ["30", 0], "conditioning": ["26", 0]}},
        "26": {"class_type": "FluxGuidance", "inputs": {"guidance": 3.5, "conditioning": ["6", 0]}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox"}},
        "16": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}},
        "17": {
            "class_type": "BasicScheduler",
            "inputs": {"scheduler": "simple", "steps": 20, "denoise": 1.0, "model": ["30", 0]},
        },
        "27": {"class_type": "EmptySD3LatentImage", "inputs": {"width": 1024, "height": 1024, "batch_size": 1}},
        "30": {"class_type": "ModelSamplingAuraFlow", "inputs": {"shift": 1.15, "model": ["12", 0]}},
        "12": {"class_type": "UNETLoader", "inputs": {"unet_name": "flux1-dev.safetensors"}},
    }
    restored = read_texts({"prompt": json.dumps(graph)})
    assert restored.values == {
        "prompt": "a fox",
        "seed": 42,
        "num_inference_steps": 20,
        "width": 1024,
        "height": 1024,
        "sampler": {"key": "euler"},
        "schedule": {"key": "shift", "shift": 1.15},
        "guidance": {"key": "cfg", "guidance_scale": 3.5},
    }
    assert restored.model == "flux1-dev.safetensors"


def test_comfyui_workflow_without_prompt_and_its_webp():
    workflow = {
        "nodes": [
            {
                "id": 3,
                "type": "KSampler",
                "widgets_values": [5, "randomize", 12, 6.5, "dpmpp_2m", "karras", 1],
                "inputs": [
                    {"name": "model", "link": 1},
                    {"name": "positive", "link": 4},
                    {"name": "negative", "link": 6},
                    {"name": "latent_image", "link": 2},
                ],
            },
            {"id": 4, "type": "CheckpointLoaderSimple", "widgets_values": ["base.safetensors"]},
            {"id": 5, "type": "EmptyLatentImage", "widgets_values": [256, 320, 1]},
            {"id": 6, "type": "CLIPTextEncode", "widgets_values": ["a lake"]},
            {"id": 7, "type": "CLIPTextEncode", "widgets_values": ["text"]},
        ],
        "links": [
            [1, 4, 0, 3, 0, "MODEL"],
            [2, 5, 0, 3, 3, "LATENT"],
            [4, 6, 0, 3, 1, "CONDITIONING"],
            [6, 7, 0, 3, 2, "CONDITIONING"],
        ],
    }
    wanted = {
        "prompt": "a lake",
        "negative_prompt": "text",
        "seed": 5,
        "num_inference_steps": 12,
        "width": 256,
        "height": 320,
        "guidance": {"key": "cfg", "guidance_scale": 6.5},
        "sampler": {"key": "dpmpp_2m"},
        "schedule": {"key": "karras"},
    }
    assert read_texts({"workflow": json.dumps(workflow)}).values == wanted
    exif = Image.Exif()
    exif[0x010F] = "workflow:" + json.dumps(workflow)
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "WEBP", exif=exif)
    assert read(reopened(buffer.getvalue())).values == wanted


def test_a_comfyui_graph_that_runs_in_circles_ends():
    graph = json.loads(json.dumps(COMFY))
    graph["10"]["inputs"]["model"] = ["10", 0]
    graph["12"]["inputs"]["positive"] = ["12", 0]
    graph["3"]["inputs"]["latent_image"] = ["3", 0]
    graph["13"]["inputs"]["value"] = ["13", 0]
    assert any("was not found in the graph" in note for note in read_texts({"prompt": json.dumps(graph)}).notes)


def test_invokeai_new_and_old():
    new = {
        "app_version": "4.2",
        "generation_mode": "txt2img",
        "positive_prompt": "landscape",
        "negative_prompt": "low quality",
        "width": 768,
        "height": 432,
        "seed": 356120443,
        "rand_device": "cpu",
        "cfg_scale": 7.5,
        "steps": 50,
        "scheduler": "dpmpp_2m_k",
        "clip_skip": 0,
        "model": {"name": "amixx", "hash": "x"},
        "loras": [{"model": {"name": "ink"}, "weight": 0.5}],
        "controlnets": [],
    }
    restored = read(png_with(invokeai_metadata=json.dumps(new)))
    assert (
        restored.source == "invokeai"
        and restored.model == "amixx"
        and restored.loras[0] == {"name": "ink", "weight": 0.5}
    )
    assert restored.values == {
        "prompt": "landscape",
        "negative_prompt": "low quality",
        "width": 768,
        "height": 432,
        "seed": 356120443,
        "num_inference_steps": 50,
        "guidance": {"key": "cfg", "guidance_scale": 7.5},
        "sampler": {"key": "dpmpp_2m"},
        "schedule": {"key": "karras"},
    }
    unknown = read_texts({"invokeai_metadata": json.dumps({**new, "scheduler": "dpm_fast_k"})})
    assert "sampler" not in unknown.values and any("dpm_fast" in note for note in unknown.notes)
    old = {
        "model": "stable diffusion",
        "model_weights": "sd-1.5",
        "image": {
            "prompt": [{"prompt": "a dog [blurry] in snow [ugly]", "weight": 1.0}],
            "steps": 30,
            "cfg_scale": 7.5,
            "width": 512,
            "height": 512,
            "seed": 3,
            "sampler": "k_euler_a",
        },
    }
    restored = read(png_with(**{"sd-metadata": json.dumps(old)}))
    assert (restored.values["prompt"], restored.values["negative_prompt"]) == ("a dog in snow", "blurry, ugly")
    assert restored.values["sampler"] == {"key": "euler_a"} and restored.model == "sd-1.5"


def test_swarmui():
    swarm = {
        "sui_image_params": {
            "prompt": "a headshot",
            "model": "Flux/flux1-dev",
            "seed": 2042464333,
            "steps": 25,
            "cfgscale": 1.0,
            "aspectratio": "Custom",
            "width": 512,
            "height": 768,
            "sampler": "euler",
            "scheduler": "normal",
            "negativeprompt": "",
            "vae": "ae.sft",
            "loras": ["ink"],
            "loraweights": ["0.5"],
            "swarm_version": "0.9",
        },
        "sui_extra_data": {},
    }
    restored = read(png_with(parameters=json.dumps(swarm)))
    assert restored.source == "swarmui" and restored.loras == ({"name": "ink", "weight": 0.5},)
    assert (
        restored.values["sampler"] == {"key": "euler"}
        and restored.values["seed"] == 2042464333
        and restored.values["height"] == 768
    )
    assert any("vae" in note for note in restored.notes)


# Hostile or broken.


def test_numbers_are_clamped_and_wrong_types_refused():
    request = Request().to_json() | {
        "num_inference_steps": 10**6,
        "width": 10**5,
        "height": float("nan"),
        "seed": "x",
        "batch_size": True,
        "variation_strength": 7,
        "prompt": ["no"],
        "sampler": {"key": "../x"},
        "schedule": {"key": "uniform", "spacing": {"deep": 1}},
        "guidance": 5,
        "start": 5,
        "loras": [{"name": "ink", "weight": 99}, "x", None],
        "model": {"a": 1},
        "device": "cuda",
        "__class__": "x",
    }
    restored = read_texts({"stepwise": json.dumps({"metadata": {"request": request}})})
    assert restored.values == {
        "num_inference_steps": 1000,
        "width": 8192,
        "variation_strength": 1.0,
        "negative_prompt": "",
        "variation_seed": 0,
    }
    assert restored.loras == () and restored.model == ""
    assert any("__class__, device" in note for note in restored.notes)
    assert all(len(note) < 1000 for note in restored.notes)
    Request.parse(restored.with_named_models())


def test_a_server_moves_values_into_its_own_caps():
    restored = read_texts({"stepwise": payload(Request(num_inference_steps=500, width=0, height=4096))}).within(
        {"num_inference_steps": (1, 200), "width": (16, 2048), "height": (16, 2048)}
    )
    assert (restored.values["num_inference_steps"], restored.values["width"], restored.values["height"]) == (
        200,
        0,
        2048,
    )
    assert len(restored.notes) == 2


def test_long_prompts_are_cut_and_control_characters_dropped():
    restored = read_texts({"parameters": "a\x00\x1bb" + "x" * 9000 + "\nSteps: 5, Sampler: Euler, Seed: 1"})
    assert restored.values["prompt"].startswith("abx") and len(restored.values["prompt"]) == MAX_PROMPT
    assert any("only the first" in note for note in restored.notes)


@pytest.mark.parametrize(
    "text",
    [
        "a" * 65536,
        " " * 65536,
        "aa:" * 21845,
        'aa:"' * 16384,
        'aa: "\\' * 9000,
        "<lora:" * 10000,
        "aa: b," * 10000,
        "\n" * 65536,
        "[" * 65536,
        '{"sui_image_params":' + "[" * 60000,
        '{"a":' * 13000,
        '{"image": {"prompt": "' + "[]" * 30000 + '"}}',
        '"\\' * 30000,
        '{"seed": 1e999999}',
        '{"metadata": {"request": {"seed": ' + "9" * 5000 + "}}}",
        "x" * 10**6,
    ],
)
def test_no_text_is_slow_or_raises(text):
    began = time.process_time()
    for name in ("stepwise", "parameters", "prompt", "workflow", "invokeai_metadata", "sd-metadata"):
        read_texts({name: text})
        read_texts({name: "x\n" + text[:65000]})
    assert time.process_time() - began < 5  # a quadratic reading takes minutes


def test_what_is_too_long_is_not_parsed_but_said():
    padding = {"padding": "x" * 70_000}
    swarm, invoke = {"sui_image_params": {"seed": 1}}, {"positive_prompt": "a", "seed": 1}
    for name, whole in (
        ("parameters", swarm),
        ("invokeai_metadata", invoke),
        ("prompt", COMFY),
        ("stepwise", json.loads(payload(Request()))),
    ):
        restored = read_texts({name: json.dumps(whole | padding)})
        assert restored is None or restored.values == {}
        if name in {"parameters", "prompt"}:
            assert "too long to be read" in restored.notes[0]
        assert read_texts({name: json.dumps(whole)}).values
    many = read_texts({"parameters": "<lora:a:1>" * 50 + "\nSteps: 5, Sampler: Euler, Seed: 1"})
    assert len(many.loras) == 16 and any("first 16 LoRAs" in note for note in many.notes)


def test_random_damage_never_raises():
    draw = random.Random(2)
    whole = [write(some_request(draw).to_json()), payload(some_request(draw)), json.dumps(COMFY)]
    for _ in range(600):
        text = list(draw.choice(whole)[:2000])
        for _ in range(draw.randint(1, 8)):
            text[draw.randrange(len(text))] = draw.choice('{}[]":,\\\n\0x9-é😀\ud800')
        for name in ("stepwise", "parameters", "prompt"):
            restored = read_texts({name: "".join(text)})
            if restored is not None and restored.values:
                Request.parse(restored.with_named_models())


def test_nothing_known_is_none_and_no_picture_an_error(tmp_path):
    assert read(Image.new("RGB", (8, 8))) is None
    assert read(png_with(Comment="made by hand", parameters="just words")) is None
    path = tmp_path / "x.png"
    path.write_bytes(b"not a picture")
    with pytest.raises(PictureError, match="cannot be read as a picture"):
        read(path)


def test_reading_decodes_no_pixel(monkeypatch):
    picture = png_with(parameters="a\nSteps: 5, Sampler: Euler, Seed: 1")
    monkeypatch.setattr(type(picture), "load", lambda self: pytest.fail("decoded"))
    assert read(picture).values["seed"] == 1
