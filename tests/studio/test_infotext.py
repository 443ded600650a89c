"""Settings are written into pictures and read back; hostile or broken texts raise nothing."""

from __future__ import annotations

import io
import json
import random
import time

import pytest
from PIL import Image

from pipelines.core.errors import PictureError, StoreError
from pipelines.core.types import MAX_PROMPT, Choice, LoraChoice, Request
from studio.infotext import Labels, read, read_texts, write
from studio.infotext.embed import encode, read_all_texts
from studio.infotext.names import SAMPLERS, SCHEDULES
from tests.studio.picture_texts import COMFY, NASTY, payload, png_with, reopened, some_request

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
        "Steps: 25, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 4, Seed: 1, Size: 64x96, "
        "Model hash: 0123456789, "
        'Model: "Emoji: small, 64", Variation seed: 5, Variation seed strength: 0.25, '
        'Lora hashes: "ink: ab12, b: cd34", '
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
        assert read_all_texts(reopened(encode(Image.new("RGB", (8, 8)), format, text, "{}")))["parameters"] == text


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
                settings = f"Steps: 5, {field}: {name}, Seed: 1, Version: v1.10.1"
                restored = read_texts({"parameters": f"x\nNegative prompt: y\n{settings}"})
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
        "prompt_weighting": "interpolate",
        "variation_seed": 0,
        "made_like": {"key": "here"},
        "second_pass": {"key": "none"},
        "cache": {"key": "none"},
        "search": {"key": "none"},
        "reward": {"key": "adherence"},
        "vae": {"key": "own"},
        "t2i_adapter": {"key": "none"},
        "control": {"key": "none"},
        "image_prompt": {"key": "none"},
        "ensemble": {"key": "none"},
        "sliders": {"key": "none"},
        "story": {"key": "none"},
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
        ("stepwise", json.loads(payload(Request()))),
    ):
        restored = read_texts({name: json.dumps(whole | padding)})
        assert restored is None or restored.values == {}
        if name == "parameters":
            assert "too long to be read" in restored.notes[0]
        assert read_texts({name: json.dumps(whole)}).values
    assert read_texts({"prompt": json.dumps(COMFY | padding)}).values  # graphs are larger
    restored = read_texts({"prompt": json.dumps(COMFY | {"padding": "x" * 2**21})})
    assert restored.values == {} and "too long to be read" in restored.notes[0]
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


@pytest.mark.parametrize(
    "choice",
    [
        {"key": "latent", "factor": 1.5, "strength": 0.55, "interpolation": "nearest"},
        {"key": "pixel", "factor": 2.0, "strength": 0.4, "upscaler": "emoji-2x"},
        {"key": "frequency", "factor": 2.0, "strength": 0.8, "cutoff": 0.5},
    ],
)
def test_a_second_pass_goes_through_the_parameters_text(choice):
    text = write({**Request(prompt="a fox").to_json(), "second_pass": choice}, Labels(version="Stepwise 1"))
    assert ("Hires upscale: " in text) == (choice["key"] in ("latent", "pixel"))
    assert read_texts({"parameters": text}).values["second_pass"] == choice
