"""The table of inspections: what a picture, a prompt and a model have to do with each other."""

from __future__ import annotations

from pipelines.core.registry import Method, Table, own_loop_only
from pipelines.inspection.autoencoder_trace import AutoencoderTrace
from pipelines.inspection.base import Inspection, needs_word_by_word
from pipelines.inspection.classifier import DiffusionClassifier, DiffusionClassifierSettings
from pipelines.inspection.directions import DirectionSearch, DirectionSearchSettings
from pipelines.inspection.personalization import Personalization, PersonalizationSettings, fits_one_clip
from pipelines.inspection.protection import Protection, ProtectionSettings
from pipelines.inspection.seed_shift import SeedShift, SeedShiftSettings
from pipelines.inspection.smoothness import Smoothness, SmoothnessSettings
from pipelines.inspection.word_attention import WordAttention, WordAttentionSettings
from pipelines.inspection.word_information import WordInformation, WordInformationSettings

__all__ = ["INSPECTIONS"]

INSPECTIONS: Table[Inspection] = Table(
    "inspection",
    [
        Method(
            "word_attention",
            "Attention of each word (DAAM)",
            WordAttention,
            WordAttentionSettings,
            needs_word_by_word,
            paper="Tang et al., What the DAAM, arXiv:2210.04885",
            help="Where the network looks while it reads each word of the prompt.",
        ),
        Method(
            "word_information",
            "Information of two words (DiffusionPID)",
            WordInformation,
            WordInformationSettings,
            paper="Zawar et al., DiffusionPID, arXiv:2406.05191; Kong et al., arXiv:2310.07972",
            help="What two words tell about each place: both the same, one alone, or only both together.",
        ),
        Method(
            "classifier",
            "Diffusion classifier",
            DiffusionClassifier,
            DiffusionClassifierSettings,
            paper="Li et al., arXiv:2303.16203",
            help="Which of several prompts explains the picture best, by the model's own errors.",
        ),
        Method(
            "autoencoder_trace",
            "Trace of the autoencoder",
            AutoencoderTrace,
            help="Whether this model's decoder made the picture, by what two reconstructions lose.",
        ),
        Method(
            "seed_shift",
            "Seed shift",
            SeedShift,
            SeedShiftSettings,
            help="How the picture changes while its initial noise slides sideways.",
        ),
        Method(
            "smoothness",
            "Latent smoothness (ISTD)",
            Smoothness,
            SmoothnessSettings,
            paper="Guo et al., Smooth Diffusion, arXiv:2312.04410",
            help="How evenly pictures change on the way from one seed to another.",
        ),
        Method(
            "personalization",
            "A new word, learned without gradients",
            Personalization,
            PersonalizationSettings,
            fits_one_clip,
            paper="Seo et al., ZOODiP, arXiv:2503.14868",
            help="Learns a word for what the picture shows, by forward passes alone: also on quantized models.",
        ),
        Method(
            "protection",
            "Image protection",
            Protection,
            ProtectionSettings,
            paper="Salman et al., PhotoGuard, arXiv:2302.06588",
            help="Changes the picture a little so that edits go wrong, and what JPEG, blur and scaling leave of that.",
        ),
        Method(
            "directions",
            "Directions for sliders (PCA)",
            DirectionSearch,
            DirectionSearchSettings,
            paper="Haas et al., arXiv:2303.11073",
            help="In what this model's pictures differ most: draws many and keeps the directions for Sliders.",
        ),
    ],
    fit=own_loop_only,
)
