"""Fooocus, NovelAI, Draw Things, InvokeAI, SwarmUI and programs with plain fields, each in its own form."""

from __future__ import annotations

import io
import json

from PIL import Image, PngImagePlugin

from studio.infotext import read, read_texts

VALUES = {
    "prompt": "a red fox",
    "negative_prompt": "blurry",
    "num_inference_steps": 28,
    "seed": 1234,
    "width": 832,
    "height": 1216,
    "guidance": {"key": "cfg", "guidance_scale": 5.5},
}


def said(restored, *words: str) -> bool:
    return any(all(word in note for word in words) for note in restored.notes)


FOOOCUS = {
    "adm_guidance": "(1.5, 0.8, 0.3)",
    "base_model": "juggernautXL_v8Rundiffusion",
    "base_model_hash": "aeb7e9e689",
    "full_negative_prompt": ["blurry", "deformed"],
    "full_prompt": ["cinematic still a red fox", "a red fox, sharp"],
    "guidance_scale": 5.5,
    "lora_combined_1": "ink : 0.5",
    "loras": [["ink", 0.5, "4852686128"], ["None", 1.0, ""]],
    "metadata_scheme": "fooocus",
    "negative_prompt": "blurry",
    "performance": "Speed",
    "prompt": "a red fox",
    "refiner_model": "None",
    "refiner_switch": 0.5,
    "resolution": "(832, 1216)",
    "sampler": "dpmpp_2m_sde_gpu",
    "scheduler": "karras",
    "seed": "1234",
    "sharpness": 2,
    "steps": 28,
    "styles": "['Fooocus V2', 'Fooocus Enhance']",
    "vae": "Default (model)",
    "version": "Fooocus v2.5.5",
}


def test_fooocus_own_scheme():
    restored = read_texts({"parameters": json.dumps(FOOOCUS), "fooocus_scheme": "fooocus"})
    methods = {"sampler": {"key": "dpmpp_2m_sde"}, "schedule": {"key": "karras"}}
    assert restored.source == "fooocus" and restored.values == {**VALUES, **methods}
    assert restored.model == "juggernautXL_v8Rundiffusion" and restored.loras == ({"name": "ink", "weight": 0.5},)
    assert said(restored, "styles", "sharpness") and not said(restored, "refiner")
    older = {name: value for name, value in FOOOCUS.items() if name != "loras"} | {"resolution": "832\u00d71216"}
    restored = read_texts({"parameters": json.dumps(older)})
    assert restored.loras == ({"name": "ink", "weight": 0.5},) and restored.values["width"] == 832


def test_fooocus_in_a_jpeg_s_main_directory():
    exif = Image.Exif()
    exif[0x9286], exif[0x0131], exif[0x927C] = json.dumps(FOOOCUS), "Fooocus v2.5.5", "fooocus"
    for format in ("JPEG", "WEBP"):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8)).save(buffer, format, exif=exif)
        assert read(Image.open(buffer)).values["seed"] == 1234


NOVELAI = {
    "prompt": "a red fox",
    "steps": 28,
    "height": 1216,
    "width": 832,
    "scale": 5.5,
    "uncond_scale": 0.0,
    "cfg_rescale": 0.0,
    "seed": 1234,
    "n_samples": 1,
    "noise_schedule": "karras",
    "sampler": "k_euler_ancestral",
    "sm": False,
    "uc": "blurry",
    "request_type": "PromptGenerateRequest",
    "v4_prompt": {"caption": {"base_caption": "a red fox", "char_captions": [{"char_caption": "girl"}]}},
}


def test_novelai():
    info = PngImagePlugin.PngInfo()
    chunks = {"Title": "NovelAI generated image", "Description": "a red fox", "Software": "NovelAI"}
    chunks |= {"Source": "NovelAI Diffusion V4.5 4BDE2A90", "Comment": json.dumps(NOVELAI)}
    for name, text in chunks.items():
        info.add_text(name, text)
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG", pnginfo=info)
    restored = read(Image.open(buffer))
    methods = {"sampler": {"key": "euler_a"}, "schedule": {"key": "karras"}}
    assert restored.source == "novelai" and restored.values == {**VALUES, **methods}
    assert restored.model == "NovelAI Diffusion V4.5 4BDE2A90" and said(restored, "single characters")
    wrapped = read_texts({"UserComment": json.dumps(chunks)})
    assert wrapped.values == restored.values and wrapped.source == "novelai"


def test_novelai_s_older_pictures_and_samplers():
    plain = {
        "steps": 28,
        "sampler": "k_dpmpp_2m",
        "seed": 1234,
        "strength": 0.69,
        "noise": 0.2,
        "scale": 5.5,
        "uc": "blurry",
    }
    for name, key in (
        ("k_dpmpp_2m", "dpmpp_2m"),
        ("plms", "pndm"),
        ("ddim_v3", "ddim"),
        ("k_dpmpp_2s_ancestral", None),
    ):
        restored = read_texts({"Comment": json.dumps({**plain, "sampler": name}), "Description": "{red} fox"})
        assert restored.values["prompt"] == "{red} fox"
        assert restored.values.get("sampler") == (None if key is None else {"key": key})
    assert read_texts({"Comment": json.dumps({"steps": 3, "mood": "good"}), "Description": "x"}) is None


DRAW_THINGS = {
    **{
        "c": "a red fox",
        "uc": "blurry",
        "model": "sd_xl_base_1.0_f16.ckpt",
        "sampler": "DPM++ 2M Karras",
        "scale": 5.5,
    },
    **{"seed": 1234, "seed_mode": "Scale Alike", "size": "832x1216", "steps": 28, "strength": 1},
    **{"lora": [{"model": "ink_lora_f16.ckpt", "weight": 0.6}], "v2": {"steps": 28}},
}


def test_draw_things_in_an_xmp_packet():
    escaped = json.dumps(DRAW_THINGS).replace('"', "&quot;")
    packet = (
        "<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF><rdf:Description><xmp:CreatorTool>Draw Things</xmp:CreatorTool>"
        f"<exif:UserComment><rdf:Alt><rdf:li xml:lang='x-default'>{escaped}</rdf:li></rdf:Alt></exif:UserComment>"
        "<dc:description><rdf:Alt><rdf:li xml:lang='x-default'>a red fox\n-blurry\nSteps: 28, "
        "Sampler: DPM++ 2M Karras, "
        "Guidance Scale: 5.5, Seed: 1234, Size: 832x1216, Model: x</rdf:li></rdf:Alt></dc:description>"
        "</rdf:Description></rdf:RDF></x:xmpmeta>"
    )
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", packet)
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG", pnginfo=info)
    restored = read(Image.open(buffer))
    methods = {"sampler": {"key": "dpmpp_2m"}, "schedule": {"key": "karras"}}
    assert restored.source == "drawthings" and restored.values == {**VALUES, **methods}
    assert restored.loras == ({"name": "ink_lora_f16.ckpt", "weight": 0.6},)
    trailing = read_texts({"UserComment": json.dumps({**DRAW_THINGS, "sampler": "Euler A Trailing", "strength": 0.5})})
    assert "sampler" not in trailing.values or trailing.values["sampler"] == {"key": "euler_a"}
    assert said(trailing, "Trailing") and said(trailing, "from another one")


def test_easy_diffusion_and_plain_chunks():
    plain = {
        **{"prompt": "a red fox", "negative_prompt": "blurry", "seed": 1234, "num_inference_steps": 28, "width": 832},
        **{"height": 1216, "guidance_scale": 5.5, "sampler_name": "euler_a", "use_stable_diffusion_model": "sd-v1-5"},
    }
    expected = {**VALUES, "sampler": {"key": "euler_a"}}
    restored = read_texts({"UserComment": json.dumps(plain)})
    assert restored.source == "easydiffusion" and restored.values == expected and restored.model == "sd-v1-5"
    chunks = {name.replace("_", " ").title(): str(value) for name, value in plain.items()}
    chunks["Stable Diffusion model"] = "sd-v1-5"
    chunks = {"Steps" if name == "Num Inference Steps" else name: value for name, value in chunks.items()}
    chunks = {"Sampler" if name == "Sampler Name" else name: value for name, value in chunks.items()}
    assert read_texts(chunks).values == expected


def test_fields_as_diffusionbee_names_them():
    bee = {
        **{"prompt": "a red fox", "negative_prompt": "blurry", "seed": 1234, "ddim_steps": 28, "scale": 5.5},
        **{"img_width": 832, "img_height": 1216},
    }
    restored = read_texts({"comment": json.dumps(bee)})
    assert restored.source == "diffusionbee" and restored.values == VALUES
    assert read_texts({"comment": json.dumps({"prompt": "What do you see?", "answer": 5})}) is None


def test_swarmui_as_it_is_now():
    swarm = {
        "sui_image_params": {
            **{"prompt": "a red fox", "negativeprompt": "blurry", "model": "flux1-dev", "images": 1, "steps": 28},
            **{"seed": 1234, "cfgscale": 1.0, "fluxguidancescale": 5.5, "sigmashift": 3.0, "aspectratio": "Custom"},
            **{"width": 832, "height": 1216, "sampler": "euler", "scheduler": "simple", "swarm_version": "0.9.6.2"},
            **{"loras": ["ink", "oil"], "loraweights": ["0.5", "1"]},
        },
        "sui_extra_data": {"date": "2025-01-01", "prep_time": "1 sec"},
        "sui_models": [{"name": "flux1-dev", "param": "model", "hash": "0x1"}],
    }
    restored = read_texts({"parameters": json.dumps(swarm)})
    methods = {"sampler": {"key": "euler"}, "schedule": {"key": "shift", "shift": 3.0}, "made_like": {"key": "comfyui"}}
    assert restored.values == {**VALUES, **methods}
    assert [lora["name"] for lora in restored.loras] == ["ink", "oil"]
    bare = {"sui_image_params": {"prompt": "a red fox", "steps": 28, "seed": 1}}
    assert "negative_prompt" not in read_texts({"UserComment": json.dumps(bare)}).values


def test_invokeai_as_it_is_now_and_as_a_command_line():
    new = {
        **{
            "app_version": "6.2.0",
            "generation_mode": "flux_txt2img",
            "positive_prompt": "a red fox",
            "negative_prompt": None,
        },
        **{"width": 832, "height": 1216, "seed": 1234, "steps": 28, "guidance": 5.5, "scheduler": "euler"},
        **{"model": {"key": "k", "hash": "h", "name": "FLUX Dev", "base": "flux", "type": "main"}, "ref_images": []},
        "loras": [{"model": {"key": "k", "name": "ink", "type": "lora"}, "weight": 0.75}],
    }
    restored = read_texts({"invokeai_metadata": json.dumps(new), "invokeai_graph": "{}"})
    assert restored.values["guidance"]["guidance_scale"] == 5.5 and restored.model == "FLUX Dev"
    assert restored.loras == ({"name": "ink", "weight": 0.75},)
    dream = '"a red fox [blurry]" -s 28 -S 1234 -W 832 -H 1216 -C 5.5 -A k_lms'
    assert read_texts({"Dream": dream}).values == {
        **VALUES,
        "sampler": {"key": "lms"},
        "made_like": {"key": "invokeai"},
    }
    assert read_texts({"Dream": "a dream I had"}) is None
