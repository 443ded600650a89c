"""What sets a picture in motion that another tab sends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipelines.emoji.clips import set_in_motion
from pipelines.emoji.objects import shipped_catalog
from pipelines.models.catalog import SHIPPED_MOTION
from pipelines.models.files import takes_part_of
from pipelines.workflows.video import VIDEOS
from studio.ui.form import FIXED

if TYPE_CHECKING:
    from pipelines.models.entry import CatalogEntry
    from studio.page.video.form import ClipForm

__all__ = ["WALK", "plan_motion"]

WALK, _MOTION = "walk", "bouncing"


def plan_motion(form: ClipForm, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what sets a picture in motion, as parts of the tab's draft.

    A shipped model of clips on the picture's own model starts from it, a motion in its prompt. Any other model of
    pictures walks to the picture of the next seed and back, and a model of clips is told the motion by the person.

    Args:
        form: of the tab, for its models.
        values: the settings that made the picture, its seed among them, and "picture", its file.
    """
    moving = None if values.get("loras") or not values.get("picture") else _find_moving(form, values.get("model"))
    caption = moving and set_in_motion(str(values.get("prompt", "")), _MOTION, shipped_catalog(None))
    if moving and caption:
        return {"form": {"seed_mode": FIXED, **values, "model": moving.key, "prompt": caption, "batch_size": 1}}
    if VIDEOS.fitting(form.get_entry(values.get("model")))[0].key != WALK:
        return {}
    return {"method": {"key": WALK, "loop": True}, "keys": [{"seed": (int(str(values["seed"])) + 1) % 2**63}]}


def _find_moving(form: ClipForm, model: object) -> CatalogEntry | None:
    """The shipped model of clips on the network of a model of pictures."""
    entries = {entry.key: entry for entry in form.models}
    still, moving = entries.get(str(model)), entries.get(SHIPPED_MOTION.name)
    if still is None or moving is None or still.path is None or moving.path is None:
        return None
    return moving if takes_part_of(moving.path, "unet", still.path) else None
