"""The table of inversions: from a picture to the noise that gives it back."""

from __future__ import annotations

from pipelines.inversions.base import Inversion
from pipelines.core.registry import Method, Table
from pipelines.inversions.ddim import DdimInversion, DdimInversionSettings, fits_ddim_inversion
from pipelines.inversions.direct import DirectInversion, DirectInversionSettings
from pipelines.inversions.edict import EdictInversion, EdictSettings, fits_edict

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
    ],
)
