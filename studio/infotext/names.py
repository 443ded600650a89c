"""Our keys of samplers and schedules, and what other programs call them: one table each.

A cell is empty where the other program has nothing that computes the same. A name that is not here is
reported to the person and never guessed: A1111's "DPM++ 2S a", for one, adds noise, and our 2S does not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

__all__ = [
    "SAMPLERS",
    "SCHEDULES",
    "UNSAID",
    "sampler_key",
    "sampler_name",
    "schedule_choice",
    "schedule_name",
    "split_sampler",
]


@dataclasses.dataclass(frozen=True)
class Names:
    """One method under its names.

    Attributes:
        key: ours.
        a1111, comfyui, invokeai: names there, the one that we write first.
        setting: of a schedule: the setting that belongs to the name.
    """

    key: str
    a1111: tuple[str, ...] = ()
    comfyui: tuple[str, ...] = ()
    invokeai: tuple[str, ...] = ()
    setting: Mapping[str, Any] = dataclasses.field(default_factory=dict)


SAMPLERS = (
    Names("ddim", ("DDIM",), ("ddim",), ("ddim",)),
    Names("euler", ("Euler",), ("euler",), ("euler", "k_euler")),
    Names("euler_a", ("Euler a",), ("euler_ancestral",), ("euler_a", "k_euler_a")),
    Names("heun", ("Heun",), ("heun",), ("heun", "k_heun")),
    Names("dpmpp_1", ("DPM++ 1",)),
    Names("dpmpp_2m", ("DPM++ 2M",), ("dpmpp_2m",), ("dpmpp_2m", "k_dpmpp_2")),
    Names("dpmpp_2s", ("DPM++ 2S",), (), ("dpmpp_2s",)),
    Names("dpmpp_3m", ("DPM++ 3M",), (), ("dpmpp_3m",)),
    Names("dpmpp_sde", ("DPM++ SDE",), ("dpmpp_sde", "dpmpp_sde_gpu"), ("dpmpp_sde",)),
    Names("dpmpp_2m_sde", ("DPM++ 2M SDE",), ("dpmpp_2m_sde", "dpmpp_2m_sde_gpu"), ("dpmpp_2m_sde",)),
    Names("dpmpp_3m_sde", ("DPM++ 3M SDE",), ("dpmpp_3m_sde", "dpmpp_3m_sde_gpu")),
    Names("deis", ("DEIS",), ("deis",), ("deis",)),
    Names("sa_solver", ("SA-Solver",), ("sa_solver",)),
    Names("ddpm", ("DDPM",), ("ddpm",), ("ddpm",)),
    Names("pndm", ("PLMS",), (), ("pndm",)),
    Names("ipndm", ("IPNDM", "IPNDM_V"), ("ipndm_v", "ipndm")),
    Names("lms", ("LMS",), ("lms",), ("lms", "k_lms")),
    Names("dpm2", ("DPM2",), ("dpm_2",), ("kdpm_2", "k_dpm_2")),
    Names("dpm2_a", ("DPM2 a",), ("dpm_2_ancestral",), ("kdpm_2_a", "k_dpm_2_a")),
    Names("tcd", ("TCD",), (), ("tcd",)),
    Names("scm", ("SCM",)),
    Names("epsilon_scaling", ("Epsilon scaling",)),
    Names("time_shift", ("Time-Shift",)),
    Names("dualfast", ("DualFast",)),
    Names("lml", ("LML",)),
    Names("flow_heun", ("Flow Heun",)),
    Names("unipc", ("UniPC",), ("uni_pc",), ("unipc",)),
    Names("lcm", ("LCM",), ("lcm",), ("lcm",)),
    Names("flow_euler", ("Flow Euler",)),
)

SCHEDULES = (
    Names("uniform", ("Uniform", "Normal"), ("normal",), setting={"spacing": "linspace"}),
    Names("uniform", ("SGM Uniform", "Simple"), ("sgm_uniform", "simple"), setting={"spacing": "trailing"}),
    Names("uniform", ("DDIM",), ("ddim_uniform",), setting={"spacing": "leading"}),
    Names("karras", ("Karras",), ("karras",)),
    Names("shift", ("Shift",)),
    Names("exponential", ("Exponential",), ("exponential",)),
    Names("beta", ("Beta",), ("beta",)),
    Names("quadratic", ("Quadratic",)),
    Names("dense_high", ("Dense at high noise",)),
    Names("align_your_steps", ("Align Your Steps",)),
    Names("hand_typed", ("Hand-typed",)),
)

UNSAID = frozenset({"", "automatic", "default", "use same scheduler", "use same sampler"})
"""Names that say: whatever the program, or the sampler, takes by itself."""

_FOREIGN_SCHEDULES = (
    "Polyexponential",
    "KL Optimal",
    "Turbo",
    "Align Your Steps GITS",
    "Bong Tangent",
    "Linear Quadratic",
)
"""Schedules of other programs that this studio has not, which may end a sampler's name as its own may."""


def sampler_key(name: str, programs: str | tuple[str, ...]) -> str | None:
    """Our key of another program's sampler, or None. `programs` are fields of `Names`, e.g. "a1111"."""
    return next((row.key for row in SAMPLERS if _has(row, programs, name)), None)


def split_sampler(name: str) -> tuple[str, str]:
    """Sampler and schedule of a name that may hold both, as "DPM++ 2M Karras" or "euler_karras"; "" for no schedule."""
    if sampler_key(name, ("a1111", "comfyui")) is None:
        labels = [*_FOREIGN_SCHEDULES, *(label for row in SCHEDULES for label in (*row.a1111, *row.comfyui))]
        for label in sorted(labels, key=len, reverse=True):
            if name.casefold().endswith((f" {label.casefold()}", f"_{label.casefold()}")):
                return name[: -len(label) - 1], label
    return name, ""


def sampler_name(key: str) -> str:
    """The name of one of our samplers in the parameters text; a key that is not in the table as it is."""
    return next((row.a1111[0] for row in SAMPLERS if row.key == key), key)


def schedule_choice(name: str, programs: str | tuple[str, ...]) -> dict[str, Any] | None:
    """{"key": ..., <setting>: <value>} of another program's schedule, or None."""
    return next(({"key": row.key, **row.setting} for row in SCHEDULES if _has(row, programs, name)), None)


def schedule_name(choice: Mapping[str, Any]) -> str:
    """The name of one of our schedules in the parameters text.

    Args:
        choice: {"key": ..., <setting>: <value>}.

    Returns:
        "" where the table has the key, but no name for this setting of it; a key that is not in the
        table as it is.
    """
    rows = [row for row in SCHEDULES if row.key == choice["key"]]
    exact = [row.a1111[0] for row in rows if all(choice.get(name) == value for name, value in row.setting.items())]
    return exact[0] if exact else "" if rows else choice["key"]


def _has(row: Names, programs: str | tuple[str, ...], name: str) -> bool:
    programs = (programs,) if isinstance(programs, str) else programs
    return any(name.casefold() == known.casefold() for program in programs for known in getattr(row, program))
