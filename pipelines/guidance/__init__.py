"""The table of guidance methods: how the branches of one evaluation become one prediction."""

from __future__ import annotations

from pipelines.core.prediction import Guidance
from pipelines.core.registry import Method, Table
from pipelines.guidance.a_star import AStar, AStarSettings
from pipelines.guidance.adaptive import Adaptive, AdaptiveSettings
from pipelines.guidance.attend_and_excite import AttendAndExcite, AttendAndExciteSettings
from pipelines.guidance.blended import Blended, BlendedSettings
from pipelines.guidance.cfg import Cfg, CfgSettings
from pipelines.guidance.frequency import FrequencyDecoupled, FrequencySettings
from pipelines.guidance.interval import Interval, IntervalSettings
from pipelines.guidance.judged import Judged, JudgedSettings
from pipelines.guidance.linear import Linear, LinearSettings
from pipelines.guidance.minority import Minority, MinoritySettings
from pipelines.guidance.negative_attention import (
    NegativeAway,
    NegativeAwaySettings,
    NormalizedAttention,
    NormalizedAttentionSettings,
    needs_attention_to_text,
)
from pipelines.guidance.perturbed import (
    Autoguidance,
    AutoguidanceSettings,
    PerturbedAttention,
    PerturbedAttentionSettings,
    SkippedLayers,
    SkippedLayersSettings,
    SmoothedEnergy,
    SmoothedEnergySettings,
    has_skipped_blocks,
    needs_joint_blocks,
    needs_self_attention,
)
from pipelines.guidance.projected import Projected, ProjectedSettings
from pipelines.guidance.residual import Residual, ResidualSettings
from pipelines.guidance.self_attention import SelfAttention, SelfAttentionSettings
from pipelines.guidance.tangential import Tangential, TangentialSettings
from pipelines.guidance.two_branch import needs_two_branches
from pipelines.guidance.word_maps import needs_word_maps
from pipelines.guidance.zero_star import ZeroStar, ZeroStarSettings

__all__ = ["GUIDANCE"]

GUIDANCE: Table[Guidance] = Table(
    "guidance",
    [
        Method(
            "cfg",
            "Classifier-free guidance",
            Cfg,
            CfgSettings,
            paper="Ho & Salimans, arXiv:2207.12598; rescale: Lin et al., arXiv:2305.08891",
            help="Moves the prediction from the negative prompt's towards the prompt's.",
        ),
        Method(
            "interval",
            "Guidance interval",
            Interval,
            IntervalSettings,
            needs_two_branches,
            paper="Kynkäänniemi et al., arXiv:2404.07724",
            help="Guides at middle noise levels only: more variety, and one evaluation instead of two elsewhere.",
        ),
        Method(
            "apg",
            "Adaptive projected guidance (APG)",
            Projected,
            ProjectedSettings,
            needs_two_branches,
            paper="Sadat et al., arXiv:2410.02416",
            help="Takes the part of strong guidance that saturates colors away.",
        ),
        Method(
            "cfg_zero_star",
            "CFG-Zero*",
            ZeroStar,
            ZeroStarSettings,
            needs_two_branches,
            paper="Fan et al., arXiv:2503.18886",
            help="Scales the negative prompt's prediction to fit; flow models stand still in the first step.",
        ),
        Method(
            "tcfg",
            "Tangential damping (TCFG)",
            Tangential,
            TangentialSettings,
            needs_two_branches,
            paper="Kwon et al., arXiv:2503.18137",
            help="Keeps of the negative prompt's prediction what points the way of the prompt's.",
        ),
        Method(
            "fdg",
            "Frequency-decoupled guidance (FDG)",
            FrequencyDecoupled,
            FrequencySettings,
            needs_two_branches,
            paper="Sadat et al., arXiv:2506.19713",
            help="Guides detail and coarse shapes by scales of their own.",
        ),
        Method(
            "adaptive",
            "Adaptive guidance",
            Adaptive,
            AdaptiveSettings,
            needs_two_branches,
            paper="Castillo et al., arXiv:2312.12487",
            help="Leaves the negative prompt out once both agree: fewer evaluations, nearly the same picture.",
        ),
        Method(
            "residual",
            "Residual guidance (RCFG)",
            Residual,
            ResidualSettings,
            needs_two_branches,
            paper="Kodaira et al., arXiv:2312.12491",
            help="Asks the negative prompt once and carries its answer on: N + 1 evaluations for N steps.",
        ),
        Method(
            "linear",
            "LinearAG",
            Linear,
            LinearSettings,
            needs_two_branches,
            paper="Castillo et al., arXiv:2312.12487",
            help="Sums earlier predictions in the place of the negative prompt's; loses much on the shipped model.",
        ),
        Method(
            "pag",
            "Perturbed-attention guidance (PAG)",
            PerturbedAttention,
            PerturbedAttentionSettings,
            needs_self_attention,
            paper="Ahn et al., arXiv:2403.17377",
            help="Leads away from what the network draws without self-attention: better structure for half more work.",
        ),
        Method(
            "seg",
            "Smoothed energy guidance (SEG)",
            SmoothedEnergy,
            SmoothedEnergySettings,
            needs_self_attention,
            paper="Hong, arXiv:2408.00760",
            help="Leads away from what the network draws with blurred attention: gentler than PAG.",
        ),
        Method(
            "slg",
            "Skip-layer guidance (SLG)",
            SkippedLayers,
            SkippedLayersSettings,
            needs_joint_blocks,
            paper="Stability AI, Stable Diffusion 3.5; the idea: Hyung et al., arXiv:2411.18664",
            help="Leads away from what the transformer draws with some blocks left out: better anatomy.",
            fit_settings=has_skipped_blocks,
        ),
        Method(
            "autoguidance",
            "Autoguidance",
            Autoguidance,
            AutoguidanceSettings,
            needs_two_branches,
            paper="Karras et al., arXiv:2406.02507; the worse network is ours",
            help="Leads away from what the same network draws with coarsely rounded weights.",
        ),
        Method(
            "nag",
            "Normalized attention guidance (NAG)",
            NormalizedAttention,
            NormalizedAttentionSettings,
            needs_attention_to_text,
            paper="Chen et al., arXiv:2505.21179",
            help="Negative prompts for models of few steps: attention leads away from them, in one evaluation.",
        ),
        Method(
            "nasa",
            "Negative-away steer attention (NASA)",
            NegativeAway,
            NegativeAwaySettings,
            needs_attention_to_text,
            paper="Nguyen et al., arXiv:2412.02687",
            help="The same without a bound: takes a share of the attention to the negative prompt away.",
        ),
        Method(
            "sag",
            "Self-attention guidance (SAG)",
            SelfAttention,
            SelfAttentionSettings,
            needs_self_attention,
            paper="Hong et al., arXiv:2210.00939",
            help="Leads away from the picture blurred where the network looks: better structure for half more work.",
        ),
        Method(
            "attend_and_excite",
            "Attend-and-excite",
            AttendAndExcite,
            AttendAndExciteSettings,
            needs_word_maps,
            paper="Chefer et al., arXiv:2301.13826",
            help="Moves the latents until each word of the prompt is seen somewhere: for objects that go missing.",
        ),
        Method(
            "a_star",
            "A-STAR",
            AStar,
            AStarSettings,
            needs_word_maps,
            paper="Agarwal et al., arXiv:2306.14544",
            help="Moves the latents so that words do not share their places and keep those that they had.",
        ),
        Method(
            "minority",
            "Minority guidance",
            Minority,
            MinoritySettings,
            needs_two_branches,
            paper="Um & Ye, arXiv:2407.11555",
            help="Moves the latents towards what the model rarely draws: unusual pictures of the same prompt.",
        ),
        Method(
            "blended",
            "Two prompts blended",
            Blended,
            BlendedSettings,
            needs_two_branches,
            paper="Kothandaraman et al., arXiv:2405.13685",
            help="Follows two prompts: interpolated, alternating, in turn, or by the price of an option on each.",
        ),
        Method(
            "judged",
            "Correction by the judge",
            Judged,
            JudgedSettings,
            needs_two_branches,
            paper="after Lv et al., PPAD, arXiv:2505.20053",
            help="The shipped detector looks on the way, and what is missing is added: for prompts of Emoji 128.",
        ),
    ],
)
