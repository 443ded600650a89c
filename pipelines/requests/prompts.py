"""A request's prompts as the run takes them: the texts of every step, their parts, and what each branch is made of."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

from pipelines.compatibility import COMPATIBILITIES
from pipelines.core.branches import BranchPlan, Terms
from pipelines.core.errors import MethodFitError, PromptError
from pipelines.core.types import Request, Traits
from pipelines.families.prompt_weighting import require_weighting
from pipelines.prompts.brackets import find_pairs, is_outside
from pipelines.prompts.composition import split_composition
from pipelines.prompts.rules import HERE, PromptRules, parse_by_rules, require_layer
from pipelines.prompts.switches import has_switches, texts_by_step
from pipelines.requests.judging import further_texts
from pipelines.requests.scenes import list_scene_texts
from pipelines.requests.wildcards import choice_spans

__all__ = [
    "RunPrompts",
    "branch_count",
    "check_prompts",
    "prompt_notes",
    "prompt_rules",
    "read_prompts",
    "read_request_prompts",
    "require_one_text",
    "split_prompts",
    "switches_or_composes",
]


_EMBEDDING = re.compile(r"(?<![\w-])embedding:\s?[^\s,:()\[\]|<>]+")


@dataclasses.dataclass(frozen=True)
class RunPrompts:
    """Says what a run encodes and how its branches use it.

    Attributes:
        texts: name to text, each distinct text once: "positive" and "negative" are those of the first step. Further
            ones are the guidance's own.
        plan: empty where the prompts neither switch nor compose.
        rules: by which they were read, and by which the texts are weighted.
    """

    texts: Mapping[str, str]
    plan: BranchPlan
    rules: PromptRules = HERE


def read_prompts(prompt: str, negative_prompt: str, num_steps: int, rules: PromptRules = HERE) -> RunPrompts:
    """Read the texts of a run and its plan.

    Args:
        prompt: may compose with AND and switch by step.
        negative_prompt: may switch by step; AND is a word there, as in A1111.
        num_steps: of the run's whole schedule.
        rules: of the program that the run is made like; ComfyUI's and InvokeAI's know no composition and no switches.

    Raises:
        PromptError: a part cannot be read.

    Source: Liu et al., arXiv:2206.01714, equation 11: the guided prediction is u + s * sum of w_i * (c_i - u), so that
    the positive branch is the sum of w_i * c_i and (1 - sum of w_i) * u.
    """
    if rules.syntax in ("comfyui", "invokeai"):
        return RunPrompts({"positive": prompt, "negative": negative_prompt}, BranchPlan(), rules)
    parts = [(texts_by_step(text, num_steps), weight) for text, weight in split_composition(prompt)]
    negative = texts_by_step(negative_prompt, num_steps)
    positives = _Names("positive", parts[0][0][0])
    negatives = _Names("negative", negative[0])
    steps = []
    for step in range(num_steps):
        base = negatives.name(negative[step])
        terms = [(positives.name(texts[step]), weight) for texts, weight in parts]
        steps.append({"positive": _build_terms(terms, base), "negative": ((base, 1.0),)})
    texts = {**positives.texts, **negatives.texts}
    plain = all(one == {"positive": (("positive", 1.0),), "negative": (("negative", 1.0),)} for one in steps)
    return RunPrompts(texts, BranchPlan(() if plain else steps), rules)


def read_request_prompts(request: Request, num_steps: int | None = None) -> RunPrompts:
    """Read a request's prompts as `read_prompts` does, by the rules of the program that it is made like.

    Args:
        request: its prompts are drawn.
        num_steps: of the run's whole schedule; None for the request's own.

    Raises:
        PromptError: a part cannot be read.
        SettingsError: the guidance's judge cannot read the prompt.
    """
    steps = num_steps or request.num_inference_steps
    prompts = read_prompts(request.prompt, request.negative_prompt, steps, prompt_rules(request))
    return dataclasses.replace(prompts, texts={**prompts.texts, **further_texts(request), **list_scene_texts(request)})


class _Names:
    """Names for distinct texts: the first has the branch's own, the next "positive 2" and so on."""

    def __init__(self, branch: str, first: str):
        self.branch, self._names_by_text = branch, {first: branch}

    def name(self, text: str) -> str:
        return self._names_by_text.setdefault(text, f"{self.branch} {len(self._names_by_text) + 1}")

    @property
    def texts(self) -> dict[str, str]:
        return {name: text for text, name in self._names_by_text.items()}


def _build_terms(parts: Sequence[tuple[str, float]], base: str) -> Terms:
    """The factors of the parts, equal texts taken together, and of the base, which makes their sum 1."""
    factors: dict[str, float] = {}
    for name, weight in parts:
        factors[name] = factors.get(name, 0.0) + weight
    rest = 1 - sum(factors.values())
    terms = tuple((name, factor) for name, factor in factors.items() if factor)
    # Weights such as 0.7 and 0.3 sum to 1 up to rounding: no evaluation for a factor of 1e-16.
    return terms if terms and abs(rest) < 1e-9 else (*terms, (base, rest))


def prompt_rules(request: Request) -> PromptRules:
    """Say how the program that a request is made like reads its prompts."""
    return COMPATIBILITIES.build(request.made_like).prompt_rules()


def switches_or_composes(prompt: str) -> bool:
    """Say whether a prompt has [from:to:when], [a|b] or AND.

    Raises:
        PromptError: a part cannot be read.
    """
    parts = split_composition(prompt)
    return len(parts) > 1 or parts[0] != (prompt, 1.0) or any(has_switches(text) for text, _ in parts)


def require_one_text(prompt: str, negative_prompt: str, what: str) -> None:
    """Refuse prompts that switch or compose where a prompt is one text.

    Args:
        prompt, negative_prompt: drawn.
        what: that cannot take them, the beginning of a sentence in the plural.

    Raises:
        MethodFitError: it has [from:to:when], [a|b] or, in the prompt, AND.
        PromptError: a part cannot be read.
    """
    if switches_or_composes(prompt) or has_switches(negative_prompt):
        raise MethodFitError(
            rf"{what} take a prompt that says the same at every step: leave [from:to:when], [a|b] and AND out, or "
            r"write \[ for a bracket of your own."
        )


def check_prompts(request: Request, traits: Traits | None) -> None:
    """Check whether the prompts can be read, before anything is loaded.

    Args:
        request: its prompts are drawn.
        traits: of the model, as far as they are known. A stock pipeline reads its prompt as plain words.

    Raises:
        PromptError: a weight, a step, a composition or a textual inversion cannot be read.
        MethodFitError: the model reads no such prompt.
        SettingsError: the clip skip asks for more layers than the text encoder has.
        UnknownMethodError: there is no such weighting.
    """
    require_weighting(request.prompt_weighting)
    if traits is not None and traits.backbone == "pipeline":
        _check_stock(request)
        return
    prompts = read_request_prompts(request)
    if traits is not None and traits.text_layers:
        require_layer(prompts.rules.find_layer(traits.family), traits.text_layers)
    for text in prompts.texts.values():
        parse_by_rules(text, prompts.rules)


def _check_stock(request: Request) -> None:
    if request.loras:
        raise MethodFitError("LoRAs cannot be applied to a model that runs through its own pipeline. Remove them.")
    if match := _EMBEDDING.search(f"{request.prompt} {request.negative_prompt}"):
        raise MethodFitError(
            f"This model runs through its own pipeline and takes no textual inversion: leave {match[0][:60]} out."
        )
    try:
        switching = any(has_switches(text) for text in (request.prompt, request.negative_prompt))
    except PromptError:
        return  # what is mistyped as a switch is words to such a model
    if switching:
        raise MethodFitError(
            "This model runs through its own pipeline, whose prompt says the same at every step: leave [from:to:when] "
            r"and [a|b] out, or write \[ for a bracket of your own."
        )


def prompt_notes(traits: Traits | None) -> str:
    """Say what of the prompt's syntax a model does not read, as a sentence for the page; "" where it reads all."""
    if traits is None:
        return ""
    if traits.backbone == "pipeline":
        return "This model reads weights, AND and BREAK as plain words, and takes no switches by step and no LoRA."
    if traits.family == "flux":
        return "This model's T5 reads BREAK as a space."
    return ""


def split_prompts(text: str) -> list[str]:
    """Split several prompts in one text, a line or a bar between them; a bar in brackets or braces belongs to its
    prompt."""
    inside = [(pair.start, pair.end) for pair in find_pairs(text)] + choice_spans(text)
    cuts = [
        place
        for place, letter in enumerate(text)
        if letter == "\n" or (letter == "|" and text[place - 1 : place] != "\\" and is_outside(place, inside))
    ]
    return [text[before + 1 : after].strip() for before, after in pairwise([-1, *cuts, len(text)])]


def branch_count(request: Request, branches: Sequence[str]) -> int:
    """Return the conditionings that each evaluation of these guidance branches takes, most of all steps.

    Raises:
        PromptError: a part of the prompts cannot be read.
    """
    if len(split_composition(request.prompt)) == 1:
        return len(branches)
    plan = read_request_prompts(request).plan
    return max(len(plan.evaluated(step, branches)) for step in range(request.num_inference_steps))
