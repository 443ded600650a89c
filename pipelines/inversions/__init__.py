"""The table of inversions: from a picture to the noise that gives it back."""

from __future__ import annotations

from pipelines.core.registry import Method, Table
from pipelines.inversions.base import Inversion
from pipelines.inversions.ddim import DdimInversion, DdimInversionSettings, fits_ddim_inversion
from pipelines.inversions.direct import DirectInversion, DirectInversionSettings
from pipelines.inversions.edict import EdictInversion, EdictSettings, fits_edict
from pipelines.inversions.fixed_point import FixedPointInversion, FixedPointSettings
from pipelines.inversions.negative_prompt import NegativePromptInversion, NegativePromptSettings, fits_negative_prompt
from pipelines.inversions.noise_maps import (
    CycleDiffusion,
    CycleDiffusionSettings,
    DdpmInversion,
    DdpmInversionSettings,
    fits_noise_maps,
)

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
            help="DDIM run backwards: quick, but guidance above 1 drifts away from the source.",
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
    ],
)
