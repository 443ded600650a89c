"""Whether what a command begins from, or judges by, belongs to its recipe."""

from __future__ import annotations

import json
from pathlib import Path

from pipelines.core.errors import TrainingError
from pipelines.emoji.objects import Catalog
from pipelines.emoji.scenes import BACKGROUNDS
from pipelines.metrics.classifier import SHIPPED as JUDGE
from pipelines.metrics.classifier import Classifier
from pipelines.models.files import part_folder
from pipelines.training.recipes import SHIPPED_RECIPE, Recipe

__all__ = ["JUDGE", "MODEL", "PARTS", "choose_folder", "require_fit", "require_judge"]

MODEL = Path(__file__).resolve().parents[2] / "assets" / "models" / "emoji"
PARTS = ("vae", "tokenizer", "unet", "text_encoder")  # what a recipe shapes; a flow has a "transformer"
CONFIGS = {"tokenizer": "tokenizer_config.json"}  # all other parts have a config.json


def choose_folder(option_value: Path | None, recipe: Recipe, option: str, shipped: Path) -> Path:
    """Choose the folder that an option names, or the shipped one where the recipe is the shipped one's.

    Raises: TrainingError when none is named and the recipe is another.
    """
    if option_value is not None:
        return option_value
    if recipe.name != SHIPPED_RECIPE:
        raise TrainingError(
            f"The recipe {recipe.name!r} needs {option} FOLDER: what ships in {shipped.name!r} is of "
            f"the recipe {SHIPPED_RECIPE!r}. Make one with the commands of pipelines.training."
        )
    return shipped


def require_fit(folder: Path, recipe: Recipe, parts: tuple[str, ...]) -> None:
    """Check parts of a stock folder by their configs; no weights are read.

    Args:
        folder: a stock pipeline, or part of one.
        recipe: what it must agree with: autoencoder's factor, token length, size, channels.
        parts: of PARTS, those that are used.
    Raises: TrainingError when a part is missing, broken or of another shape.
    """
    differences = []
    for part in parts:
        place = part_folder(folder, part)
        if not place.is_dir():
            raise TrainingError(f"{str(folder)!r} has no {part!r}: it is needed to begin from.")
        path = place / CONFIGS.get(part, "config.json")
        try:
            facts = _read_facts(part, json.loads(path.read_text("utf-8")))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TrainingError(f"The config of {part!r} in {str(folder)!r} cannot be read: {error!r}.") from error
        expected = _list_expected(part, recipe)
        differences += [
            f"{part}: {name} {facts[name]}, not {expected[name]}" for name in expected if facts[name] != expected[name]
        ]
    if differences:
        raise TrainingError(
            f"{str(folder)!r} does not fit the recipe {recipe.name!r} ({'; '.join(differences)}). "
            "Name a folder that was made by this recipe."
        )


def require_judge(judge: Classifier, recipe: Recipe, catalog: Catalog) -> None:
    """Check that a classifier tells apart exactly what the recipe's pictures show, at their size.

    Raises: TrainingError when its objects, backgrounds or size are others.
    """
    judge_labels, recipe_labels = set(judge.labels), set(catalog.labels)
    differences = []
    if judge_labels != recipe_labels:
        unknown, further = len(recipe_labels - judge_labels), len(judge_labels - recipe_labels)
        differences.append(
            f"it names {len(judge_labels)} objects where the recipe has {len(recipe_labels)}: {unknown} of these are "
            f"unknown to it and {further} are beyond them"
        )
    if set(judge.backgrounds) != set(BACKGROUNDS):
        differences.append(f"its backgrounds differ in {sorted(set(judge.backgrounds) ^ set(BACKGROUNDS))}")
    if judge.size != recipe.size:
        differences.append(f"it reads {judge.size} px, not {recipe.size}")
    if differences:
        raise TrainingError(
            f"The classifier cannot judge the recipe {recipe.name!r}: {'; '.join(differences)}. "
            "Name one that was trained by this recipe with --classifier."
        )


def _read_facts(part: str, config: dict) -> dict[str, int]:
    if part == "vae":
        factor = 2 ** (len(config["block_out_channels"]) - 1)
        return {"factor": factor, "sample_size": config["sample_size"], "latent_channels": config["latent_channels"]}
    return {
        name: config[name]
        for name in {
            "unet": ("sample_size", "in_channels"),
            "transformer": ("sample_size", "in_channels"),
            "text_encoder": ("max_position_embeddings",),
            "tokenizer": ("model_max_length",),
        }[part]
    }


def _list_expected(part: str, recipe: Recipe) -> dict[str, int]:
    shape = recipe.autoencoder
    network = {"sample_size": recipe.size // shape.factor, "in_channels": shape.latent_channels}
    return {
        "vae": {"factor": shape.factor, "sample_size": recipe.size, "latent_channels": shape.latent_channels},
        "unet": network,
        "transformer": network,
        "text_encoder": {"max_position_embeddings": recipe.denoiser.tokens},
        "tokenizer": {"model_max_length": recipe.denoiser.tokens},
    }[part]
