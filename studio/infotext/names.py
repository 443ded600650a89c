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
    "find_sampler_key",
    "get_sampler_name",
    "sampler_choice",
    "schedule_choice",
    "schedule_name",
    "split_sampler",
]


@dataclasses.dataclass(frozen=True)
class Names:
    """Describes one method under its names.

    Attributes:
        key: ours.
        a1111, comfyui, invokeai: names there, the one that we write first.
        setting: the method's settings that belong to the name.
        written: the name that we write where none computes the very same; no name that we read.
    """

    key: str
    a1111: tuple[str, ...] = ()
    comfyui: tuple[str, ...] = ()
    invokeai: tuple[str, ...] = ()
    setting: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    written: str = ""


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
    Names("deis", ("DEIS",), (), ("deis",)),
    Names("deis", comfyui=("deis",), setting={"order": 3}),
    Names("sa_solver", ("SA-Solver",), ("sa_solver",)),
    Names("ddpm", ("DDPM",), ("ddpm",), ("ddpm",)),
    Names("pndm", ("PLMS",), (), ("pndm",)),
    Names("ipndm", ("IPNDM",), ("ipndm",), setting={"distances": "equal"}),
    Names("ipndm", ("IPNDM_V",), ("ipndm_v",)),
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
    Names("unipc", ("UniPC",), ("uni_pc",), setting={"order": 3, "variant": "bh1"}),
    Names("unipc", comfyui=("uni_pc_bh2",), setting={"order": 3, "variant": "bh2"}),
    Names("unipc", invokeai=("unipc",)),
    Names("lcm", ("LCM",), ("lcm",), ("lcm",)),
    Names("flow_euler", ("Flow Euler",)),
)

SCHEDULES = (
    Names("uniform", ("Uniform", "Normal"), ("normal",), setting={"spacing": "linspace unrounded"}),
    Names("uniform", ("SGM Uniform",), ("sgm_uniform",), setting={"spacing": "sgm"}),
    Names("uniform", ("Simple",), ("simple",), setting={"spacing": "simple"}),
    Names("uniform", ("DDIM",), ("ddim_uniform",), setting={"spacing": "ddim_uniform"}),
    Names("uniform", setting={"spacing": "linspace"}, written="Uniform"),
    Names("uniform", setting={"spacing": "trailing"}, written="SGM Uniform"),
    Names("uniform", setting={"spacing": "leading"}, written="DDIM"),
    Names("karras", ("Karras",), ("karras",)),
    Names("shift", ("Shift",)),
    Names("exponential", ("Exponential",), ("exponential",)),
    Names("beta", ("Beta",), setting={"quantiles_of": "sigma"}),
    Names("beta", comfyui=("beta",), setting={"quantiles_of": "whole time steps"}),
    Names("beta", setting={"quantiles_of": "time"}, written="Beta"),
    Names("kl_optimal", ("KL Optimal",), ("kl_optimal",)),
    Names("linear_quadratic", ("Linear Quadratic",), ("linear_quadratic",)),
    Names("quadratic", ("Quadratic",)),
    Names("dense_high", ("Dense at high noise",)),
    Names("align_your_steps", ("Align Your Steps",)),
    Names("hand_typed", ("Hand-typed",)),
)

UNSAID = frozenset({"", "automatic", "default", "use same scheduler", "use same sampler"})
"""Names that say: whatever the program, or the sampler, takes by itself."""

_FOREIGN_SCHEDULES = (
    "Polyexponential",
    "Turbo",
    "Align Your Steps GITS",
    "Bong Tangent",
)
"""Schedules of other programs that this studio has not, which may end a sampler's name as its own may."""


def find_sampler_key(name: str, programs: str | tuple[str, ...]) -> str | None:
    """Find our key of another program's sampler; None for an unknown one. `programs` are fields of `Names`, e.g.
    "a1111"."""
    return next((row.key for row in SAMPLERS if _has(row, programs, name)), None)


def sampler_choice(name: str, programs: str | tuple[str, ...], written: bool = False) -> dict[str, Any] | None:
    """Return {"key": ..., <setting>: <value>} of another program's sampler; None for an unknown one.

    Args:
        name: there.
        programs: fields of `Names`.
        written: whether the name may be one that we wrote, which stands for the key alone.
    """
    row = next((row for row in SAMPLERS if _has(row, programs, name)), None)
    return None if row is None else {"key": row.key, **({} if written else row.setting)}


def split_sampler(name: str) -> tuple[str, str]:
    """Split a name that may hold both a sampler and a schedule, as "DPM++ 2M Karras" or "euler_karras"; "" for no
    schedule."""
    if find_sampler_key(name, ("a1111", "comfyui")) is None:
        labels = [*_FOREIGN_SCHEDULES, *(label for row in SCHEDULES for label in (*row.a1111, *row.comfyui))]
        for label in sorted(labels, key=len, reverse=True):
            if name.casefold().endswith((f" {label.casefold()}", f"_{label.casefold()}")):
                return name[: -len(label) - 1], label
    return name, ""


def get_sampler_name(key: str) -> str:
    """Return the name of one of our samplers in the parameters text; a key that is not in the table as it is."""
    return next((row.a1111[0] for row in SAMPLERS if row.key == key and row.a1111), key)


def schedule_choice(name: str, programs: str | tuple[str, ...], written: bool = False) -> dict[str, Any] | None:
    """Return {"key": ..., <setting>: <value>} of another program's schedule; None for an unknown one.

    Args:
        name: there.
        programs: fields of `Names`.
        written: whether the name may be one that we wrote where none computes the very same.
    """
    ours = [row for row in SCHEDULES if written and row.written.casefold() == name.casefold()]
    rows = [*ours, *(row for row in SCHEDULES if _has(row, programs, name))]
    return {"key": rows[0].key, **rows[0].setting} if rows else None


def schedule_name(choice: Mapping[str, Any]) -> str:
    """Return the name of one of our schedules in the parameters text.

    Args:
        choice: {"key": ..., <setting>: <value>}.

    Returns:
        "" where the table has the key, but no name for this setting of it; a key that is not in the
        table as it is.
    """
    rows = [row for row in SCHEDULES if row.key == choice["key"]]
    exact = [row for row in rows if all(choice.get(name) == value for name, value in row.setting.items())]
    names = [row.written or row.a1111[0] for row in exact if row.written or row.a1111]
    return names[0] if names else "" if rows else choice["key"]


def _has(row: Names, programs: str | tuple[str, ...], name: str) -> bool:
    programs = (programs,) if isinstance(programs, str) else programs
    return any(name.casefold() == known.casefold() for program in programs for known in getattr(row, program))
