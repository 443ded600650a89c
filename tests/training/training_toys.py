"""A recipe so small that a training step takes milliseconds, and what it trains."""

from __future__ import annotations

import torch

from pipelines.emoji.objects import Catalog, shipped_catalog
from pipelines.emoji.scenes import BACKGROUNDS
from pipelines.metrics.classifier import ClassifierNetwork
from pipelines.training.autoencoder import AutoencoderTask, build_autoencoder
from pipelines.training.classifier import ClassifierTask
from pipelines.training.denoiser import DenoiserTask
from pipelines.training.denoiser_networks import build_text_encoder, build_unet
from pipelines.training.recipes import (
    AutoencoderRecipe,
    ClassifierRecipe,
    DenoiserRecipe,
    Recipe,
)
from pipelines.training.tokenizer import caption_corpus, train_tokenizer

TOY = Recipe(
    name="toy",
    objects=6,
    size=32,
    autoencoder=AutoencoderRecipe(widths=(8, 16), norm_groups=4, crop=16, batch=4, steps=40, learning_rate=3e-3),
    denoiser=DenoiserRecipe(
        widths=(16, 32),
        attention=(True, True),
        heads=2,
        norm_groups=4,
        text_width=32,
        text_layers=1,
        text_heads=2,
        text_hidden=64,
        tokens=16,
        vocabulary=700,
        batch=8,
        steps=30,
        learning_rate=3e-3,
        warmup=5,
        pairs=0.2,
        pool=32,
        pool_steps=20,
    ),
    classifier=ClassifierRecipe(
        widths=(8, 16), batch=16, steps=40, learning_rate=5e-3, warmup=5, pool=64, pool_steps=20
    ),
)


def toy_catalog() -> Catalog:
    shipped = shipped_catalog()
    return Catalog(shipped.objects[: TOY.objects], shipped.folder)


def toy_autoencoder(seed: int) -> AutoencoderTask:
    torch.manual_seed(seed)
    vae = build_autoencoder(TOY.autoencoder, TOY.size)
    return AutoencoderTask(TOY, vae, toy_catalog())


def toy_classifier(seed: int) -> ClassifierTask:
    torch.manual_seed(seed)
    network = ClassifierNetwork(TOY.objects, len(BACKGROUNDS), TOY.classifier.widths)
    torch.manual_seed(0)
    vae = build_autoencoder(TOY.autoencoder, TOY.size).eval()
    return ClassifierTask(TOY, network, vae, toy_catalog())


def toy_denoiser(seed: int, folder) -> DenoiserTask:
    catalog = toy_catalog()
    tokenizer = train_tokenizer(caption_corpus(catalog, 200), 700, 16, folder)
    torch.manual_seed(0)
    vae = build_autoencoder(TOY.autoencoder, TOY.size)
    torch.manual_seed(seed)
    networks = torch.nn.ModuleDict(
        {
            "unet": build_unet(TOY.denoiser, 4, TOY.size // 2),
            "text_encoder": build_text_encoder(TOY.denoiser, tokenizer),
        }
    )
    return DenoiserTask(TOY, networks, vae, tokenizer, catalog)
