"""The table of inversions: from a picture to the noise that gives it back."""

from __future__ import annotations

from pipelines.core.registry import Method, Table
from pipelines.inversions.base import Inversion
from pipelines.inversions.ddim import DdimInversion, DdimInversionSettings, fits_ddim_inversion
from pipelines.inversions.direct import DirectInversion, DirectInversionSettings
from pipelines.inversions.dual import DualConditional, DualConditionalSettings
from pipelines.inversions.edict import EdictInversion, EdictSettings, fits_edict
from pipelines.inversions.fixed_point import FixedPointInversion, FixedPointSettings
from pipelines.inversions.negative_prompt import NegativePromptInversion, NegativePromptSettings, fits_negative_prompt
from pipelines.inversions.noise_maps import (
    CycleDiffusion,
    CycleDiffusionSettings,
    DdpmInversion,
    DdpmInversionSettings,
    LeditsInversion,
    LeditsInversionSettings,
    fits_noise_maps,
)
from pipelines.inversions.null_text import NullText, NullTextSettings
from pipelines.inversions.rectified import RfInversion, RfInversionSettings, fits_rf_inversion
from pipelines.inversions.solvers import DpmSolverInversion, DpmSolverInversionSettings, fits_dpm_solver

__all__ = ["INVERSIONS"]

INVERSIONS: Table[Inversion] = Table(
    "inversion",
    [
        Method(
            "direct",
            "Direct Inversion",
            DirectInversion,
            DirectInversionSettings,
            fit=fits_ddim_inversion,
            paper="Ju et al., Direct Inversion, arXiv:2310.01506",
            help="DDIM inversion whose own path holds the source in place while the edit is drawn: exact. The default.",
        ),
        Method(
            "edict",
            "EDICT",
            EdictInversion,
            EdictSettings,
            fit=fits_edict,
            paper="Wallace et al., EDICT, arXiv:2211.12446",
            help="Two coupled latents that can be run backwards exactly, at any guidance and twice the work.",
        ),
        Method(
            "ddim",
            "DDIM inversion",
            DdimInversion,
            DdimInversionSettings,
            fit=fits_ddim_inversion,
            paper="Song et al., DDIM, arXiv:2010.02502; Dhariwal & Nichol, arXiv:2105.05233",
            help="DDIM run backwards, for flow models Euler: quick, but guidance above 1 drifts away from the source.",
        ),
        Method(
            "fixed_point",
            "Fixed-point inversion",
            FixedPointInversion,
            FixedPointSettings,
            fit=fits_ddim_inversion,
            paper="Pan et al., AIDI, arXiv:2309.04907",
            help="DDIM inversion whose every step is solved by a few more evaluations, guidance included.",
        ),
        Method(
            "negative_prompt",
            "Negative-prompt inversion",
            NegativePromptInversion,
            NegativePromptSettings,
            fit=fits_negative_prompt,
            paper="Miyake et al., Negative-prompt inversion, arXiv:2305.16807",
            help="DDIM inversion, then guidance away from the source prompt: the source stays at any scale.",
        ),
        Method(
            "ddpm",
            "Edit-friendly DDPM inversion",
            DdpmInversion,
            DdpmInversionSettings,
            fit=fits_noise_maps,
            paper="Huberman-Spiegelglas et al., arXiv:2304.06140",
            help="Independent noise at every level, and the noise maps that lead back along it: exact, and diverse.",
        ),
        Method(
            "cycle",
            "CycleDiffusion",
            CycleDiffusion,
            CycleDiffusionSettings,
            fit=fits_noise_maps,
            paper="Wu & De la Torre, CycleDiffusion, arXiv:2210.05559",
            help="A path drawn from the sampler's own posterior, and the noise that leads back along it: exact.",
        ),
        Method(
            "ledits",
            "LEDITS++ inversion",
            LeditsInversion,
            LeditsInversionSettings,
            fit=fits_noise_maps,
            paper="Brack et al., LEDITS++, arXiv:2311.16711",
            help="As edit-friendly DDPM, for a second-order solver: exact in fewer steps.",
        ),
        Method(
            "dpm_solver",
            "DPM-Solver++ inversion",
            DpmSolverInversion,
            DpmSolverInversionSettings,
            fit=fits_dpm_solver,
            paper="Lu et al., DPM-Solver++, arXiv:2211.01095",
            help="DDIM inversion with a second-order solver, up and down.",
        ),
        Method(
            "null_text",
            "Null-text inversion",
            NullText,
            NullTextSettings,
            fit=fits_negative_prompt,
            paper="Mokady et al., Null-text inversion, arXiv:2211.09794",
            help="DDIM inversion, then the empty prompt is optimized until guidance comes back to the source. Slow.",
        ),
        Method(
            "dual",
            "Dual-Conditional Inversion",
            DualConditional,
            DualConditionalSettings,
            fit=fits_negative_prompt,
            paper="Li et al., DCI, arXiv:2506.02560",
            help="DDIM inversion refined by descent at every step, its noise drawn toward the picture.",
        ),
        Method(
            "rf",
            "RF-Inversion",
            RfInversion,
            RfInversionSettings,
            fit=fits_rf_inversion,
            paper="Rout et al., RF-Inversion, arXiv:2410.10792",
            help="For flow models: led to typical noise on the way up, and to the picture on the way down.",
        ),
    ],
)
