"""The denoisers of an edit: which prompts, guidance and branches its rows have on the way up and down."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from pipelines.core.branches import ONE_TEXT, BranchPlan
from pipelines.core.denoiser import Denoiser
from pipelines.core.errors import PromptError
from pipelines.core.prediction import Conditioning, Guidance
from pipelines.edits.base import Edit
from pipelines.edits.paired import RowGuidance
from pipelines.edits.words import Words, read_rows
from pipelines.families.alike import encode_alike
from pipelines.families.latent_model import LatentModel
from pipelines.guidance import GUIDANCE
from pipelines.guidance.cfg import without_branches
from pipelines.inversions.base import Inversion
from pipelines.requests.encoding import encode_request
from pipelines.requests.prompts import prompt_rules
from pipelines.requests.text_to_image import ResolvedRun
from pipelines.workflows.edit.request import EditRequest

__all__ = ["EditDenoisers"]


@dataclasses.dataclass(frozen=True)
class EditDenoisers:
    """Builds the denoisers of one edit on one loaded model.

    Attributes:
        request: checked.
        resolved: its base on this model, at the canvas's size.
        family: the model, its LoRAs already applied.
        edit: of the request.
        inversion: of the request.
        cancelled: polled before every evaluation.
    """

    request: EditRequest
    resolved: ResolvedRun
    family: LatentModel
    edit: Edit
    inversion: Inversion
    cancelled: Callable[[], bool]

    @property
    def inverted_prompt(self) -> str:
        """What the picture shows that is inverted."""
        if self.edit.inverts_wordless:
            return ""
        return self.edit.reference_prompt if self.edit.takes_reference else self.request.source_prompt

    @property
    def inversion_guidance(self) -> tuple[Guidance, float]:
        """The guidance of the way up, and its scale, which the inversion decides."""
        scale = self.inversion.guidance_scale(self.resolved.guidance.guidance_scale)
        return self._build_guidance(scale), scale

    def build_inverting(self) -> Denoiser:
        """Build the denoiser of the way up: one row, guided by what the picture shows."""
        guidance, scale = self.inversion_guidance
        prompt = "" if self.inversion.is_wordless else self.inverted_prompt
        return self._build_rows(guidance, [prompt], [scale])

    def build(self, inverts: bool, num_steps: int) -> Denoiser:
        """Build the denoiser of the rows that the edit draws: the source's and its own, or its own alone.

        Args:
            inverts: whether the run comes down from an inversion.
            num_steps: of this run.

        Raises:
            PromptError: a prompt's syntax cannot be read.
        """
        base, guidance = self.request.base, self.resolved.guidance
        scale = guidance.guidance_scale
        if self.edit.keeps_prompt:
            return self._build_concepts()
        if self.edit.paired:
            return self._build_pair()
        if inverts:
            negative = self.inverted_prompt if self.inversion.replaces_negative else None
            return self._build_rows(guidance, [self.inverted_prompt, base.prompt], [scale, scale], negative)
        # Only the steps of this run count for a prompt that switches, as in A1111.
        conditionings, plan = encode_request(base, self.family, 1, num_steps)
        return self._assemble(guidance, self._embed_scale(conditionings, scale), plan)

    def read_words(self, prompt: str) -> Words:
        """Read a prompt's words and where they stand among the network's text rows.

        Raises:
            PromptError: the model's tokenizer is not known.
        """
        base = self.request.base
        together = (prompt, base.prompt, base.negative_prompt, self.request.source_prompt)
        rows = self.family.list_text_rows(together, prompt_rules(base))
        if not rows:
            raise PromptError(
                "This model has no tokenizer that is known here, so its words cannot be edited one by one. Choose "
                "Plain re-prompting."
            )
        return read_rows(rows, prompt)

    def encode_text(self, text: str) -> Conditioning:
        """Encode one more text of the edit as the request's prompts are encoded, one row."""
        base = self.request.base
        how = (1, (base.width, base.height), base.prompt_weighting, prompt_rules(base))
        return self.family.encode_prompts(text, base.negative_prompt, *how)["positive"]

    def _build_guidance(self, scale: float) -> Guidance:
        """The request's guidance with another scale."""
        chosen = self.request.base.guidance
        return GUIDANCE[chosen.key].build({**chosen.settings, "guidance_scale": scale})

    def _build_pair(self) -> Denoiser:
        """Of source and edit without an inversion, each with its own guidance scale."""
        scale, guidance = self.edit.source_guidance, self.resolved.guidance
        prompts, scales = [self.request.source_prompt, self.request.base.prompt], [scale, guidance.guidance_scale]
        return self._build_rows(RowGuidance(self._build_guidance(scale), guidance), prompts, scales)

    def _build_concepts(self) -> Denoiser:
        """Of two rows with the source's prompt and guidance, and the branches of the edit's own texts."""
        guidance, scale = self.inversion_guidance
        denoiser = self._build_rows(guidance, 2 * [self.request.source_prompt], [scale, scale])
        base, size = self.request.base, (self.request.base.width, self.request.base.height)
        how = (2, size, base.prompt_weighting, prompt_rules(base))
        concepts = {
            name: self.family.encode_prompts(text, base.negative_prompt, *how)["positive"]
            for name, text in self.edit.texts.items()
        }
        branches = denoiser.conditionings
        if len({one.signature for one in [branches["positive"], *concepts.values()]}) > 1:
            # Of different lengths: all together, which fills the shorter ones.
            texts = {"positive": self.request.source_prompt, "negative": base.negative_prompt, **self.edit.texts}
            together = self.family.encode_texts(texts, *how)
            concepts = {name: together[name] for name in self.edit.texts}
            branches = self._embed_scale({name: together[name] for name in ("positive", "negative")}, scale)
        denoiser.conditionings = {**branches, **concepts}
        return denoiser

    def _build_rows(
        self, guidance: Guidance, prompts: Sequence[str], scales: Sequence[float], negative: str | None = None
    ) -> Denoiser:
        """A row a prompt, each with the scale of its guidance; the negative prompt is the request's where none is
        given."""
        base = self.request.base
        size = (base.width, base.height)
        negative = base.negative_prompt if negative is None else negative
        pairs = [(prompt, negative) for prompt in prompts]
        alike = encode_alike(self.family, pairs, size, base.prompt_weighting, prompt_rules(base))
        encoded = [self._embed_scale(branches, scale) for branches, scale in zip(alike, scales, strict=True)]
        return self._assemble(guidance, _stack_conditionings(encoded))

    def _embed_scale(self, conditionings: dict[str, Conditioning], scale: float) -> dict[str, Conditioning]:
        """The conditionings of a network that takes the guidance scale as an input, with it; others as they are."""
        if self.family.traits.guidance == "cfg":
            return conditionings
        return self.family.embed_guidance(conditionings, scale)

    def _assemble(
        self, guidance: Guidance, conditionings: dict[str, Conditioning], plan: BranchPlan = ONE_TEXT
    ) -> Denoiser:
        if self.family.traits.guidance != "cfg":
            guidance = without_branches(guidance)
        return Denoiser(self.family, guidance, conditionings, self.cancelled, plan, self.resolved.cache)


def _stack_conditionings(encodings: Sequence[Mapping[str, Conditioning]]) -> dict[str, Conditioning]:
    """One conditioning a branch, its rows those of the prompts."""
    return {branch: Conditioning.cat([prompts[branch] for prompts in encodings]) for branch in encodings[0]}
