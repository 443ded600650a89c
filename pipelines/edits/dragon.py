"""DragonDiffusion: what is dragged, moved or resized looks, to the network's own features, as it did where it was."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Generator, Iterator

import torch
import torch.nn.functional as F

from pipelines.core.errors import SettingsError
from pipelines.core.prediction import Prediction, Query
from pipelines.core.registry import setting
from pipelines.core.sampler import Sampler, State, StepContext, Stepping
from pipelines.core.schedule import Level
from pipelines.edits.attention import opened_attention, order_self_attention
from pipelines.edits.base import EditContext, UnpatchedEdit
from pipelines.edits.local_blend import LocalBlend
from pipelines.edits.masactrl import MutualAttention
from pipelines.edits.move import DOWN, RIGHT, SCALE
from pipelines.edits.placing import Placing
from pipelines.edits.prompt_to_prompt import Counting
from pipelines.inversions.base import SOURCE, TARGET, require_gradient

__all__ = ["Correspondence", "Dragon", "DragonSettings", "FeatureGuided", "read_points", "recorded_features"]

_ACTIVE, _EVERY = 0.6, 0.2
"""Shares of the steps: the guidance acts up to the first, in every step up to the second, then in every other."""
_EDIT, _CONTENT, _CONTRAST, _FILL = 4.0, 6.0, 0.2, 0.8
"""Weights of the energies: what is moved, what stays, and of the place left: unlike before, like the surroundings."""
_PATCH = 0.06
"""Half a side of the patch around a dragged point, as a share of the picture."""


@dataclasses.dataclass(frozen=True)
class DragonSettings:
    """The settings of DragonDiffusion."""

    right: float = setting(0.0, RIGHT, low=-1, high=1, step=0.01)
    down: float = setting(0.0, DOWN, low=-1, high=1, step=0.01)
    scale: float = setting(1.0, SCALE, low=0.1, high=5, step=0.05)
    points: str = setting(
        "",
        "Instead of moving: from where to where points are dragged, in shares of the picture, e.g. 0.3,0.5 > 0.5,0.5. "
        "Several are set apart by semicolons. The mask says what may change.",
        label="Points to drag",
    )
    energy: float = setting(2000.0, "How strongly the features lead.", low=0, high=10000, step=10)


@dataclasses.dataclass(frozen=True)
class Correspondence:
    """Says which places of the source the edit's places should look like.

    Attributes:
        sources, targets: (K, 2), x and y in shares of the picture.
        stays: (1, 1, h, w) bool, where nothing changes.
        left: (1, 1, h, w) bool, the places that are left behind; of dragged points none.
    """

    sources: torch.Tensor
    targets: torch.Tensor
    stays: torch.Tensor
    left: torch.Tensor


def read_points(text: str) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Read "x,y > x,y; ..." as pairs of points in shares of the picture.

    Raises:
        SettingsError: it is something else, or a point lies outside the picture.
    """
    pairs = []
    for part in text.replace("\n", ";").split(";"):
        if not part.strip():
            continue
        try:
            start, end = ([float(number) for number in point.split(",")] for point in part.split(">"))
            (x, y), (to_x, to_y) = start, end
        except ValueError:
            raise SettingsError(
                f"The points {part.strip()[:60]!r} cannot be read. Write e.g. 0.3,0.5 > 0.5,0.5: from where to where."
            ) from None
        if not all(0 <= value <= 1 for value in (x, y, to_x, to_y)):
            raise SettingsError(
                f"The points {part.strip()[:60]!r} lie outside the picture: its corners are 0,0 and 1,1."
            )
        pairs.append(((x, y), (to_x, to_y)))
    return pairs


class RecordedFeatures:
    """Holds what a UNet's decoder blocks last said, by name."""

    def __init__(self) -> None:
        self.features: dict[str, torch.Tensor] = {}


@contextlib.contextmanager
def recorded_features(network: torch.nn.Module) -> Iterator[RecordedFeatures]:
    """Record the outputs of a UNet's second and third decoder block while the context lasts."""
    recorded, handles = RecordedFeatures(), []
    blocks = list(network.up_blocks)  # type: ignore[arg-type]
    try:
        for index in {min(1, len(blocks) - 1), min(2, len(blocks) - 1)}:

            def record(module: torch.nn.Module, inputs: object, output: torch.Tensor, name: str = str(index)) -> None:
                recorded.features[name] = output

            handles.append(blocks[index].register_forward_hook(record))
        yield recorded
    finally:
        for handle in handles:
            handle.remove()


def _likeness(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Cosines of (K, C) and (K, C) brought to 0 to 1: (K,)."""
    return (F.cosine_similarity(first, second, dim=-1) + 1) / 2


def _sample(features: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Features (C, h, w) at places (K, 2), x and y in shares of the picture: (K, C)."""
    grid = (2 * places - 1).to(features)[None, None]
    return F.grid_sample(features[None], grid, padding_mode="border", align_corners=False)[0, :, 0].T


def compute_energy(edit: torch.Tensor, source: torch.Tensor, match: Correspondence) -> torch.Tensor:
    """Compute the energy of one layer's features, (C, h, w) each: least where the edit looks as it should.

    Source: Mou et al., DragonDiffusion, arXiv:2307.02421, equations 4 to 6: w / (1 + 4 s), s the mean likeness.
    """
    size = (edit.shape[-2], edit.shape[-1])
    stays, left = (F.adaptive_avg_pool2d(mask.to(edit), size)[0, 0] >= 0.5 for mask in (match.stays, match.left))
    moved = _likeness(_sample(edit, match.targets), _sample(source, match.sources)).mean()
    energy = _EDIT / (1 + 4 * moved)
    if stays.any():
        energy = energy + _CONTENT / (1 + 4 * _likeness(edit[:, stays].T, source[:, stays].T).mean())
    if left.any():
        energy = energy + _CONTRAST * _likeness(edit[:, left].T, source[:, left].T).mean()
        if stays.any():
            around = _likeness(edit[:, left].mean(dim=1), source[:, stays].mean(dim=1))
            energy = energy + _FILL / (1 + 4 * around)
    return energy


class FeatureGuided:
    """A DDIM step whose noise estimate of the edit's row goes up the energy of the decoder's features.

    eps' = eps + scale * sigma * dE/dx. At scale 0 it is the inner step with the source's row as it comes.

    Args:
        inner: takes steps without guidance, and puts the source's row onto its path.
        recorded: of the network.
        match: which places should look like which.
        scale: of the gradient.

    Source: Mou et al., DragonDiffusion, arXiv:2307.02421, section 3.2; Mou et al., DiffEditor, arXiv:2402.02583,
    for which steps are guided: the first 60 %, every other from 20 % on.
    Differs: features are compared at matching places, bilinearly; the gradient is not split by region; DiffEditor's
    regional SDE, repeats and image prompt are left out; the scale is measured on the shipped model, theirs is 500 on
    Stable Diffusion.
    """

    def __init__(self, inner: Sampler, recorded: RecordedFeatures, match: Correspondence, scale: float):
        self.inner, self.recorded, self.match, self.scale = inner, recorded, match, scale

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        inner = self.inner.step(state, level, next_level, context)
        active = self._is_active(context)
        query = next(inner)
        try:
            while True:
                # What an inversion asks of the source's row alone is its own.
                if active and len(query.latents) > 1 and not query.branches:
                    prediction = yield from self._guide(query)
                else:
                    prediction = yield query
                query = inner.send(prediction)
        except StopIteration as finished:
            result: State = finished.value
        return result

    def _guide(self, query: Query) -> Generator[Query, Prediction, Prediction]:
        rows = query.latents.detach().clone().requires_grad_()
        prediction = yield dataclasses.replace(query, latents=rows, is_differentiable=True)
        gradient = self._compute_gradient(rows)
        noise = prediction.noise.detach()
        noise[TARGET] += self.scale * query.level.sigma * gradient
        return Prediction(noise, rows.detach(), query.level, "epsilon")

    def _is_active(self, context: StepContext) -> bool:
        done = context.index / context.num_steps
        return bool(self.scale) and done < _ACTIVE and (done < _EVERY or context.index % 2 == 0)

    def _compute_gradient(self, rows: torch.Tensor) -> torch.Tensor:
        if any(len(features) < 2 for features in self.recorded.features.values()):
            raise SettingsError(
                "DragonDiffusion needs source and edit in one evaluation. Let the model evaluate more rows together."
            )
        with torch.enable_grad():
            energies = [
                # The conditional half is evaluated last.
                compute_energy(features[TARGET - 2], features[SOURCE - 2].detach(), self.match)
                for features in self.recorded.features.values()
            ]
            energy = torch.stack(energies).sum()
            require_gradient(energy, "DragonDiffusion")
            (gradient,) = torch.autograd.grad(energy, rows)
        self.recorded.features.clear()
        return gradient[TARGET]

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        return self.inner.nfe(num_steps, ends_clean)


class Dragon(UnpatchedEdit):
    """Moves, resizes or drags while the picture is drawn, led by the network's features.

    The edit begins from the source's noise, the object's noise copied to its new place, and the decoder's
    self-attention of the edit looks at the source. Outside the object's old and new place (dragging: outside the mask)
    stands the source.

    Source: as `FeatureGuided`; the visual cross-attention is section 3.3 of arXiv:2307.02421.
    """

    masked = True
    inverts = True

    def __init__(self, settings: DragonSettings = DragonSettings()):
        self.settings, self.points = settings, read_points(settings.points)
        self.placing = None if self.points else Placing(settings.right, settings.down, settings.scale)

    @contextlib.contextmanager
    def applied(self, context: EditContext) -> Iterator[Sampler]:
        match = self._build_match(context)
        layers = [name for name in order_self_attention(context.network) if name.startswith("up_blocks")]
        controller = MutualAttention(layers, 0.0, 4 if context.guided else 2)
        with recorded_features(context.network) as recorded, opened_attention(context.network, controller):
            guided = FeatureGuided(_Copied(context.sampler, match), recorded, match, self.settings.energy)
            yield LocalBlend(Counting(guided, controller), context.mask)

    def _build_match(self, context: EditContext) -> Correspondence:
        mask, device = context.drawn_mask, context.image_latents.device
        if self.placing is None or context.moved is None:
            sources, targets = (_build_patches(points) for points in zip(*self.points, strict=True))
            return Correspondence(sources.to(device), targets.to(device), ~mask, torch.zeros_like(mask))
        before, after = context.moved
        if not before.any() or not after.any():
            raise SettingsError(
                "The object, where it is or where it goes, is too small for DragonDiffusion on this model. Choose Move "
                "or resize."
            )
        targets, places = _list_places(after), _list_places(before)
        # Not by the middle of `after`: of an object that partly leaves the picture it is another.
        middle = (places.amin(dim=0) + places.amax(dim=0)) / 2
        shift = torch.tensor([self.placing.right, self.placing.down], device=device)
        sources = (targets - shift - middle) / self.placing.scale + middle
        return Correspondence(sources, targets, ~mask, before & ~after)


def _list_places(mask: torch.Tensor) -> torch.Tensor:
    """Middles of the places of a mask (1, 1, h, w), in shares of the picture: (K, 2), x and y."""
    size = torch.tensor(mask.shape[-1:-3:-1], device=mask.device)
    places: torch.Tensor = (mask[0, 0].nonzero().flip(-1) + 0.5) / size
    return places


def _build_patches(points: tuple[tuple[float, float], ...]) -> torch.Tensor:
    """Nine places about each point: (K, 2)."""
    offsets = torch.cartesian_prod(*(2 * [torch.tensor([-_PATCH, 0.0, _PATCH])]))
    return (torch.tensor(points)[:, None] + offsets).flatten(0, 1).clamp(0, 1)


class _Copied:
    """A sampler whose first step begins with the moved places' latents at their new place."""

    def __init__(self, inner: Sampler, match: Correspondence):
        self.inner, self.match = inner, match

    def step(self, state: State, level: Level, next_level: Level, context: StepContext) -> Stepping:
        if context.index == 0:
            latents = state.latents.clone()
            height, width = latents.shape[-2:]
            size = torch.tensor([width, height], device=latents.device)
            (x, y), (to_x, to_y) = (
                ((places * size).long().clamp(min=torch.zeros_like(size), max=size - 1)).T
                for places in (self.match.sources, self.match.targets)
            )
            latents[TARGET, :, to_y, to_x] = latents[SOURCE][:, y, x]
            state = dataclasses.replace(state, latents=latents)
        return (yield from self.inner.step(state, level, next_level, context))

    def nfe(self, num_steps: int, ends_clean: bool = True) -> int:
        return self.inner.nfe(num_steps, ends_clean)
