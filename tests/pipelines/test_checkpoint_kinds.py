"""Single files as people have them: each kind is loaded with the numbers it holds, or listed with the reason."""

from __future__ import annotations

import shutil

import pytest
import tiny_models
import torch
from checkpoint_files import checkpoint_of, renamed, scaled_fp8, sd3_network_of, vae_name, xl_checkpoint_of
from diffusers import AutoencoderKL
from model_folders import loader_of
from safetensors.torch import save_file

from pipelines.benchmarks import full_checkpoint
from pipelines.weights import kinds
from pipelines.weights.checkpoint_names import encoder_moves, network_moves, vae_moves

NETWORK = "model.diffusion_model."


@pytest.fixture(scope="module")
def donors(tmp_path_factory):
    """Folders with the configurations of tiny models, of other weights than the files."""
    folder = tmp_path_factory.mktemp("donors")
    tiny_models.tiny_sd(folder / "sd" / "stable-diffusion-v1-5", seed=2)
    tiny_models.tiny_sd(folder / "sd2" / "stable-diffusion-2-1", seed=2)
    tiny_models.tiny_sdxl(folder / "sdxl" / "stable-diffusion-xl-base-1.0", seed=2)
    tiny_models.tiny_sd3(folder / "sd3" / "stable-diffusion-3.5-medium", seed=2)
    return folder


@pytest.fixture
def widths(monkeypatch):
    monkeypatch.setitem(kinds.CONTEXT_WIDTHS, 16, ("sd", "sd1"))
    monkeypatch.setitem(kinds.CONTEXT_WIDTHS, 40, ("sdxl", "sdxl"))


@pytest.fixture
def place(donors, tmp_path, widths):
    """Puts a file beside its donor; returns a loader."""

    def put(tensors, donor="sd", name="painter.safetensors", metadata=None):
        for folder in (donors / donor).iterdir() if donor else ():
            if not (tmp_path / folder.name).exists():
                (tmp_path / folder.name).symlink_to(folder)
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, tmp_path / name, metadata=metadata)
        # The donors are links for speed's sake, and followed.
        return loader_of_linked(tmp_path)

    return put


def loader_of_linked(folder):
    loader = loader_of(folder)
    loader.catalog.folders.follow_links = True
    loader.catalog.rescan()
    return loader


def assert_same(module, expected):
    state = module.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], weight) for name, weight in expected.items())


MARK = torch.zeros(0)


def test_names_of_2022_without_text_model(place):
    stock = tiny_models.tiny_sd(seed=1)
    old = {name.replace(".text_model.", "."): weight for name, weight in checkpoint_of(stock).items()}
    with place(old).model("painter") as model:
        assert_same(model.components["text_encoder"], stock.text_encoder.state_dict())


@pytest.mark.parametrize("scale_name", ["scale_weight", "weight_scale"])
def test_scaled_fp8_is_multiplied_out(place, scale_name):
    packed, plain = scaled_fp8(checkpoint_of(tiny_models.tiny_sd(seed=1)), scale_name)
    packed[f"{NETWORK}scaled_fp8"] = torch.zeros(2).to(torch.float8_e4m3fn)
    loader = place(packed)
    with loader.model("painter") as model:
        shift = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight"
        expected = plain[f"{NETWORK}input_blocks.3.1.transformer_blocks.0.attn1.to_q.weight"]
        assert torch.allclose(model.network.state_dict()[shift], expected, rtol=1e-6)
        assert model.network.state_dict()[shift].dtype == torch.float32


def test_plain_fp8_and_scales_of_blocks(place):
    weights = checkpoint_of(tiny_models.tiny_sd(seed=1))
    name = f"{NETWORK}input_blocks.3.1.transformer_blocks.0.attn1.to_q.weight"
    low = weights[name].to(torch.float8_e5m2)
    blocks = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    with place(weights | {name: low, name.replace(".weight", ".weight_scale_inv"): blocks}).model("painter") as model:
        full = blocks.repeat_interleave(8, 0).repeat_interleave(8, 1)
        loaded = model.network.state_dict()["down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight"]
        assert torch.equal(loaded, low.float() * full)


@pytest.mark.parametrize("part", ["vae", "text_encoder"])
def test_a_part_that_is_missing_comes_from_the_named_donor(place, donors, part):
    start = {"vae": "first_stage_model.", "text_encoder": "cond_stage_model."}[part]
    weights = {name: w for name, w in checkpoint_of(tiny_models.tiny_sd(seed=1)).items() if not name.startswith(start)}
    loader = place(weights)
    assert not loader.catalog["painter"].problem
    assert "Stable Diffusion 1.5" in loader.catalog["painter"].notes
    with loader.model("painter") as model:
        assert_same(model.components[part], getattr(tiny_models.tiny_sd(seed=2), part).state_dict())
        assert_same(model.network, tiny_models.tiny_sd(seed=1).unet.state_dict())


@pytest.mark.parametrize("dimensions", [4, 3, 2])
def test_a_vae_with_attention_in_its_middle(place, donors, tmp_path, dimensions):
    """As every published one has: linear layers in diffusers, 1 x 1 convolutions in their authors' files."""
    stock = tiny_models.tiny_sd(seed=1)
    stock.vae = AutoencoderKL(**{**stock.vae.config, "mid_block_add_attention": True}).eval()
    weights = checkpoint_of(stock)
    for name in [name for name in weights if ".attn_1." in name and weights[name].ndim == 2]:
        weights[name] = weights[name].reshape(*weights[name].shape, *[1] * (dimensions - 2))
    shutil.copytree(donors / "sd" / "stable-diffusion-v1-5", tmp_path / "stable-diffusion-v1-5")
    config = tmp_path / "stable-diffusion-v1-5" / "vae" / "config.json"
    config.write_text(config.read_text().replace('"mid_block_add_attention": false', '"mid_block_add_attention": true'))
    assert sum(".attn_1." in name for name in weights) == 20
    with place(weights).model("painter") as model:
        assert_same(model.components["vae"], stock.vae.state_dict())


def test_every_tensor_of_a_full_sized_model_is_moved():
    """The names of Stable Diffusion 1.5 as it is published; no memory is taken."""
    parts = full_checkpoint.empty_parts()
    names = list(full_checkpoint.original_names(parts))
    assert len(names) == 686 + 248 + 196
    unet = network_moves(names, NETWORK, dict(parts["unet"].config))
    vae = vae_moves(names, "first_stage_model.", dict(parts["vae"].config))
    encoder = encoder_moves(names, "cond_stage_model.transformer.", parts["text_encoder"].state_dict())
    for part, moves in (("unet", unet), ("vae", vae), ("text_encoder", encoder)):
        assert {move.targets[0] for move in moves} == set(parts[part].state_dict()), part


def test_without_a_donor_the_list_names_what_is_missing_and_only_that(place):
    weights = checkpoint_of(tiny_models.tiny_sd(seed=1))
    no_vae = {name: w for name, w in weights.items() if not name.startswith("first_stage_model.")}
    problem = place(no_vae, donor=None).catalog["painter"].problem
    assert "painter.safetensors has no VAE in it" in problem and "encoder" not in problem.split(".")[1]
    network = {f"{NETWORK}joint_blocks.0.context_block.adaLN_modulation.1.bias": torch.zeros(4)}
    problem = place(network | {"first_stage_model.x": torch.zeros(1)}, donor=None).catalog["painter"].problem
    assert "no text encoder" in problem and "VAE" not in problem.split(". ")[0]


def test_comfyuis_split_files_make_a_model(place, donors, tmp_path):
    stock = tiny_models.tiny_sd(seed=1)
    weights = checkpoint_of(stock)
    unet = {name.removeprefix(NETWORK): w for name, w in weights.items() if name.startswith(NETWORK)}
    # A donor of configurations only.
    (tmp_path / "stable-diffusion-v1-5").mkdir()
    for path in (donors / "sd" / "stable-diffusion-v1-5").rglob("*"):
        if path.is_file() and path.suffix != ".safetensors":
            target = tmp_path / "stable-diffusion-v1-5" / path.relative_to(donors / "sd" / "stable-diffusion-v1-5")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    for name, part in (
        (
            "vae/kl-f8.safetensors",
            {n.removeprefix("first_stage_model."): w for n, w in renamed(stock.vae, vae_name).items()},
        ),
        ("text_encoders/clip_l.safetensors", renamed(stock.text_encoder, lambda n: f"text_model.{n}")),
    ):
        (tmp_path / name).parent.mkdir()
        save_file(part, tmp_path / name)
    loader = place(unet, donor=None, name="diffusion_models/painter.safetensors")
    entries = loader.catalog
    assert not entries["painter"].problem and "kl-f8.safetensors" in entries["painter"].notes
    assert "VAE by itself" in entries["kl-f8"].problem and "text encoder by itself" in entries["clip_l"].problem
    with loader.model("painter") as model:
        for name in ("unet", "vae", "text_encoder"):
            assert_same(model.components[name], getattr(stock, name).state_dict())


def test_sdxl_with_its_open_clip_encoder(place):
    stock = tiny_models.tiny_sdxl(seed=1)
    with place(xl_checkpoint_of(stock), "sdxl").model("painter") as model:
        for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
            assert_same(model.components[name], getattr(stock, name).state_dict())
        assert model.prediction_type == "epsilon"


TOLD = {
    "v_pred": ({"v_pred": MARK}, None, False),
    "v_pred and ztsnr": ({"v_pred": MARK, "ztsnr": MARK}, None, True),
    "modelspec": ({}, {"modelspec.prediction_type": "v"}, False),
    "kohya": ({}, {"ss_v_parameterization": "True", "ss_zero_terminal_snr": "True"}, True),
}


@pytest.mark.parametrize("told", TOLD)
def test_v_prediction_is_read_from_keys_and_metadata(place, told):
    marks, metadata, zero_snr = TOLD[told]
    loader = place({**xl_checkpoint_of(tiny_models.tiny_sdxl(seed=1)), **marks}, "sdxl", metadata=metadata)
    with loader.model("painter") as model:
        scheduler = model.components["scheduler"]
        assert (model.prediction_type, scheduler.config.prediction_type) == ("v_prediction",) * 2
        assert bool(scheduler.config.get("rescale_betas_zero_snr")) == zero_snr
        ends_in_noise = model.noise_schedule.alphas_cumprod[-1] < 1e-6
        assert ends_in_noise == zero_snr


def test_edm_v_prediction_has_edms_times_and_levels(place):
    marks = {"edm_vpred.sigma_max": torch.tensor(80.0), "edm_vpred.sigma_min": torch.tensor(0.01)}
    with place({**xl_checkpoint_of(tiny_models.tiny_sdxl(seed=1)), **marks}, "sdxl").model("painter") as model:
        assert model.prediction_type == "v_prediction"
        assert model.noise_schedule.at(999).sigma_ve == pytest.approx(80)
        assert model.noise_schedule.at(0).sigma_ve == pytest.approx(0.01)
        seen = []
        hook = model.network.time_proj.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
        given = model.encode_prompts("a fox", "", 1, (32, 32))["positive"]
        level = model.noise_schedule.at_sigma_ve(5.0)
        model.predict_raw(torch.ones(1, 4, 8, 8), torch.tensor([level.timestep]), given)
        hook.remove()
        # Karras et al., EDM, table 1: the network's time is ln(sigma) / 4.
        assert float(seen[0]) == pytest.approx(torch.tensor(5.0).log().item() / 4, abs=1e-4)


def test_where_nothing_tells_sd2s_form_both_are_offered(place, monkeypatch):
    monkeypatch.setitem(kinds.CONTEXT_WIDTHS, 16, ("sd", "sd2"))
    weights = {name: w for name, w in checkpoint_of(tiny_models.tiny_sd(seed=1)).items() if not name.startswith("cond")}
    loader = place(weights, "sd2")
    labels = {key: entry.label for key, entry in loader.catalog.items() if key.startswith("painter")}
    assert labels == {"painter": "painter (v-prediction)", "painter-epsilon": "painter (epsilon)"}
    for key, prediction in (("painter", "v_prediction"), ("painter-epsilon", "epsilon")):
        with loader.model(key) as model:
            assert model.prediction_type == prediction
    (loader.catalog.folder / "painter.yaml").write_text('model:\n  params:\n    parameterization: "v"\n')
    loader.catalog.rescan()
    assert [key for key in loader.catalog if key.startswith("painter")] == ["painter"]
    with loader.model("painter") as model:
        assert model.prediction_type == "v_prediction"


def test_sd3_in_its_authors_names_without_t5(place):
    stock = tiny_models.tiny_sd3(seed=1)
    weights = {
        **sd3_network_of(stock.transformer),
        **renamed(stock.vae, vae_name),
        **renamed(stock.text_encoder, lambda name: f"text_encoders.clip_l.transformer.{name}"),
        **renamed(stock.text_encoder_2, lambda name: f"text_encoders.clip_g.transformer.{name}"),
    }
    with place(weights, "sd3").model("painter") as model:
        for name in ("transformer", "vae", "text_encoder", "text_encoder_2"):
            assert_same(model.components[name], getattr(stock, name).state_dict())
        assert_same(model.components["text_encoder_3"], tiny_models.tiny_sd3(seed=2).text_encoder_3.state_dict())
