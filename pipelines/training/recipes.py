"""The two recipes: `cpu` (what ships, two cores, hours) and `gpu` (one large GPU, minutes)."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.core.errors import TrainingError
from pipelines.emoji.compositions import ORDINARY_SIZES
from pipelines.emoji.objects import Catalog, packaged_catalog, shipped_catalog

__all__ = [
    "RECIPES",
    "SHIPPED_RECIPE",
    "AutoencoderRecipe",
    "ClassifierRecipe",
    "DenoiserRecipe",
    "Recipe",
    "TransformerRecipe",
    "catalog_for",
    "find_recipe",
]


@dataclass(frozen=True)
class AutoencoderRecipe:
    """Describes AutoencoderKL: one layer a block, no middle attention, halved once less than its widths."""

    widths: tuple[int, ...]
    latent_channels: int = 4
    norm_groups: int = 8
    crop: int = 32  # pixels; training on crops is six times as fast as on whole pictures
    batch: int = 16
    steps: int = 7_200
    learning_rate: float = 1.6e-3
    kl_weight: float = 1e-6
    gradient_weight: float = 1.0
    ema: float = 0.998

    @property
    def factor(self) -> int:
        """Pixels to a latent, along each side."""
        return 2 ** (len(self.widths) - 1)


@dataclass(frozen=True)
class DenoiserRecipe:
    """Describes UNet and text encoder, trained together on latents drawn beforehand."""

    widths: tuple[int, ...]
    attention: tuple[bool, ...]  # which resolutions have cross-attention, largest first
    layers: int = 1
    heads: int = 4
    norm_groups: int = 16
    text_width: int = 192
    text_layers: int = 3
    text_heads: int = 6
    text_hidden: int = 512
    tokens: int = 24
    vocabulary: int = 2_261
    batch: int = 32
    steps: int = 6_500  # from nothing; the shipped weights took as many in stages, see their card
    learning_rate: float = 4e-4
    warmup: int = 150  # steps
    decay: float = 0.6  # share of the steps in which the learning rate falls to zero
    ema: float = 0.999
    min_snr: float = 5.0
    snr_floor: float = 0.02  # of velocity prediction, in place of min_snr
    singles: float | None = None  # share of single objects; None is that of the compositions
    sizes: tuple[str | None, ...] = ORDINARY_SIZES  # of the single objects that `singles` adds
    reading: float = 0.02  # weight of the loss that has the text encoder write down what stands where
    empty_captions: float = 0.1
    pairs: float = 0.5  # share of two objects; at the generator's own 0.2 they are learned late
    pool: int = 16_000  # pictures in memory as latents
    pool_steps: int = 4_000  # steps after which they are drawn anew
    first: int = 4_096  # pictures before the first step, where new ones join at each step
    fresh: int = 8  # pictures that join at each step


@dataclass(frozen=True)
class TransformerRecipe:
    """Describes SD3Transformer2DModel and its two CLIPs, trained together as a rectified flow."""

    width: int = 192
    layers: int = 6
    heads: int = 6
    patch: int = 2  # latents to a token, along each side
    text_width: int = 256  # of the encoder that it begins from
    words_width: int = 32  # of the second CLIP, of which the words' own embeddings are read
    batch: int = 64
    steps: int = 6_000
    learning_rate: float = 1.5e-3
    warmup: int = 100  # steps
    decay: float = 0.5  # share of the steps in which the learning rate falls to zero
    ema: float = 0.998
    time_mean: float = 0.0  # of the logit of the time; above 0 high noise is drawn more often
    shift: float = 1.0  # of the sampler's times
    reading: float = 0.02  # weight of the loss that has the text encoder write down what stands where
    padded: float = 0.0  # share of batches with the 256 empty tokens of a stock pipeline without its T5
    empty_captions: float = 0.1


@dataclass(frozen=True)
class ClassifierRecipe:
    """Describes a small convolutional network over pictures."""

    widths: tuple[int, ...]
    batch: int = 64
    steps: int = 1_600
    learning_rate: float = 2e-3
    warmup: int = 100
    decay: float = 0.9
    ema: float = 0.99
    pool: int = 8_192
    pool_steps: int = 800


@dataclass(frozen=True)
class Recipe:
    """Holds everything that makes one shipped model."""

    name: str
    objects: int
    size: int  # pixels
    autoencoder: AutoencoderRecipe
    denoiser: DenoiserRecipe
    classifier: ClassifierRecipe
    transformer: TransformerRecipe | None = None


SHIPPED_RECIPE = "cpu"  # what made the models in assets
RECIPES: dict[str, Recipe] = {
    "cpu": Recipe(
        name="cpu",
        objects=71,
        size=64,
        autoencoder=AutoencoderRecipe(widths=(16, 48, 96)),
        denoiser=DenoiserRecipe(widths=(64, 128, 192), attention=(True, True, False)),
        classifier=ClassifierRecipe(widths=(32, 64, 128)),
    ),
    "emoji-128": Recipe(
        name="emoji-128",
        objects=152,
        size=128,
        autoencoder=AutoencoderRecipe(
            widths=(16, 32, 64, 128),
            latent_channels=8,
            norm_groups=2,
            crop=48,
            batch=12,
            steps=4_700,
            learning_rate=2e-3,
            gradient_weight=0.2,
        ),
        denoiser=DenoiserRecipe(
            widths=(64, 128, 192),
            attention=(False, True, True),
            text_width=256,
            text_layers=4,
            text_heads=8,
            text_hidden=768,
            tokens=32,
            vocabulary=2_400,
            batch=64,
            steps=6_000,
            learning_rate=1.5e-3,
            warmup=100,
            decay=0.5,
            ema=0.998,
            pool=40_000,
            first=2_048,
            fresh=4,
        ),
        classifier=ClassifierRecipe(widths=(32, 64, 128, 160)),
        transformer=TransformerRecipe(),
    ),
    "gpu": Recipe(
        name="gpu",
        objects=1_000,
        size=128,
        autoencoder=AutoencoderRecipe(
            widths=(32, 64, 128, 192),
            crop=64,
            batch=64,
            steps=12_000,
            learning_rate=1e-3,
        ),
        denoiser=DenoiserRecipe(
            widths=(80, 160, 256),
            attention=(True, True, True),
            heads=4,
            text_width=256,
            text_layers=4,
            text_heads=8,
            text_hidden=1_024,
            tokens=32,
            vocabulary=6_000,
            batch=256,
            steps=24_000,
            pool=120_000,
            pool_steps=4_000,
        ),
        classifier=ClassifierRecipe(widths=(48, 96, 192, 256), batch=256, steps=8_000, pool=60_000, pool_steps=2_000),
    ),
}


def find_recipe(name: str) -> Recipe:
    """Find the recipe of that name. Raises: TrainingError when there is none."""
    if name not in RECIPES:
        raise TrainingError(f"Unknown recipe {name!r}. Choose one of: {', '.join(RECIPES)}.")
    return RECIPES[name]


def catalog_for(recipe: Recipe) -> Catalog:
    """Return the recipe's objects: the shipped ones if they are enough, else through npm."""
    shipped = shipped_catalog(None)
    if recipe.objects > len(shipped.objects):
        return packaged_catalog(recipe.objects)
    return Catalog(shipped.objects[: recipe.objects], shipped.folder)
