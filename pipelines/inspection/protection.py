"""Image protection: a picture is changed a little so that edits go wrong, and what everyday changes leave of that."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Mapping

import numpy as np
import torch
from PIL import Image, ImageFilter

from pipelines.core.cancelling import raise_if
from pipelines.core.loop import denoise
from pipelines.core.noise import NoiseSource
from pipelines.core.registry import setting
from pipelines.inspection.base import Finding, InspectContext, difference
from pipelines.requests.encoding import decode, encode_request
from pipelines.requests.passes import partial
from pipelines.requests.text_to_image import assemble_run

__all__ = ["Protection", "ProtectionSettings", "protect"]


@dataclasses.dataclass(frozen=True)
class ProtectionSettings:
    most: int = setting(
        8, "Levels of 255 by which a color is changed at most; 0 for none.", low=0, high=64, step=1, label="Most change"
    )
    steps: int = setting(20, "Steps of the search for the change.", low=1, high=200, step=1)
    strength: float = setting(
        0.5, "Denoising strength of the edit that it is tried against.", low=0.05, high=1, step=0.05
    )


def protect(
    encode: Callable[[torch.Tensor], torch.Tensor],
    picture: torch.Tensor,
    most: int,
    steps: int,
    advance: Callable[[float], None] = lambda shift: None,
) -> torch.Tensor:
    """Find a small change whose latents are near those of a gray picture.

    Args:
        encode: pictures (1, 3, H, W) in [0, 1] to latents (1, C, h, w), with gradients.
        picture: (1, 3, H, W), whole levels of 255, as floats from 0 to 1.
        most: levels by which a color may be changed.
        steps: of projected gradient descent, each 2.5 / steps of the whole way.
        advance: called before each step with how far the latents have moved, in parts of their length.

    Returns:
        (1, 3, H, W), whole levels.

    Source: Salman et al., Raising the cost of malicious AI-powered image editing (PhotoGuard), arXiv:2302.06588,
        equation 3, the encoder attack; Madry et al., arXiv:1706.06083, for the descent.
    """
    with torch.no_grad():
        origin, target = encode(picture), encode(torch.full_like(picture, 0.5))
    limit, change = most / 255, torch.zeros_like(picture)
    for _ in range(steps):
        moved = (picture + change).requires_grad_(True)
        with torch.enable_grad():
            latents = encode(moved)
            (gradient,) = torch.autograd.grad((latents - target).square().sum(), moved)
        advance(float((latents.detach() - origin).norm() / origin.norm()))
        change = (change - 2.5 * limit / steps * gradient.sign()).clamp(-limit, limit)
        change = (picture + change).clamp(0, 1) - picture
    return ((picture + change) * 255).round() / 255


class Protection:
    """Protects a picture against edits by this model, and measures what JPEG, blur and scaling leave of it.

    What is left is the distance between the latents of both pictures after the same change, in parts of that before.
    The edit is image to image with the request's prompt and seed, of the picture as it was and as it is protected.

    Source: as `protect`.
    Differs: the target is a gray picture. The diffusion attack, which goes through the whole edit, is not done.
    """

    needs_picture = True

    def __init__(self, settings: ProtectionSettings = ProtectionSettings()):
        self.settings = settings

    def count_pieces(self) -> int:
        return self.settings.steps + len(_CHANGES) + 3

    def inspect(self, context: InspectContext) -> Finding:
        before, curve = np.asarray(context.picture), list[tuple[float, float]]()

        def advance(shift: float) -> None:
            raise_if(context.cancelled)
            curve.append((float(len(curve)), shift))
            context.advance()

        family, settings = context.family, self.settings
        encode = family.encode_with_gradients
        after = _to_array(protect(encode, _to_tensor(before), settings.most, settings.steps, advance))
        shift = _shift(context, before, after)
        figures = {"shift of the latents": shift, "largest change of a color": float(_largest(before, after))}
        for name, change in _CHANGES.items():
            raise_if(context.cancelled)
            figures[f"left after {name}"] = _shift(context, change(before), change(after)) / shift if shift else 0.0
            context.advance()
        jpeg = next(iter(_CHANGES.values()))
        edits = [_edit(context, one, settings.strength) for one in (before, after, jpeg(after))]
        figures["change of its edit"] = difference(edits[0], edits[1])
        figures["change of its edit after JPEG"] = difference(edits[0], edits[2])
        return Finding(
            figures,
            curve=[*curve, (float(len(curve)), shift)],
            axes=("Steps of the search", "Shift of the latents"),
            sentence=_say(figures),
            pictures=np.stack([before, after, *edits[:2]]),
        )


def _say(figures: Mapping[str, float]) -> str:
    if not figures["shift of the latents"]:
        return "Nothing was changed."
    left = min(value for name, value in figures.items() if name.startswith("left after"))
    return (
        "The pictures: before, protected, and an edit of each. Protection is undone where little is left: here at "
        f"least {100 * (1 - left):.0f} % goes by one everyday change."
    )


def _edit(context: InspectContext, picture: np.ndarray, strength: float) -> np.ndarray:
    """Image to image of the request, from a picture."""
    resolved, request = context.resolved, context.resolved.request
    levels = partial(resolved.levels, strength)
    levels = levels if len(levels) > 1 else list(resolved.levels[-2:])
    clean = context.family.encode_images(_to_tensor(picture))
    source = NoiseSource([request.seed])
    fresh = source(clean.cpu())
    conditionings, plan = encode_request(request, context.family, 1, len(levels) - 1)
    run = assemble_run(resolved, context.family, (fresh, source), conditionings, context.cancelled, plan)
    latents = levels[0].alpha * clean + levels[0].sigma * fresh.to(clean)
    *_, step = denoise(dataclasses.replace(run, levels=levels, latents=latents, begin=None))
    context.evaluations += step.evaluations
    context.advance()
    edited: np.ndarray = decode(context.family, step.latents)[0]
    return edited


def _shift(context: InspectContext, first: np.ndarray, second: np.ndarray) -> float:
    """The distance of two pictures' latents, in parts of the first one's length."""
    before, after = (context.family.encode_images(_to_tensor(one)) for one in (first, second))
    return float((after - before).norm() / before.norm())


def _largest(first: np.ndarray, second: np.ndarray) -> int:
    return int(np.abs(first.astype(int) - second).max())


def _to_tensor(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255


def _to_array(images: torch.Tensor) -> np.ndarray:
    pixels: np.ndarray = (images[0] * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    return pixels


def _compress(picture: np.ndarray) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=75)
    return np.asarray(Image.open(stream).convert("RGB"))


def _blur(picture: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(1)))


def _halve(picture: np.ndarray) -> np.ndarray:
    image = Image.fromarray(picture)
    half = image.resize((max(1, image.width // 2), max(1, image.height // 2)), Image.Resampling.LANCZOS)
    return np.asarray(half.resize(image.size, Image.Resampling.LANCZOS))


_CHANGES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "JPEG of quality 75": _compress,
    "a blur of 1 pixel": _blur,
    "half the size and back": _halve,
}
"""What happens to pictures on their way, by name."""
