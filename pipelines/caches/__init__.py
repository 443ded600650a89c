"""The table of caches: what is left out of the network's evaluations, and taken from earlier ones."""

from __future__ import annotations

from pipelines.caches.attention_broadcast import AttentionBroadcast, AttentionBroadcastSettings
from pipelines.caches.cache_quant import CacheQuant, CacheQuantSettings
from pipelines.caches.deep_cache import DeepCache, DeepCacheSettings
from pipelines.caches.encoder_propagation import EncoderPropagation, EncoderPropagationSettings
from pipelines.caches.feature_inheritance import FeatureInheritance, FeatureInheritanceSettings
from pipelines.caches.first_block import FirstBlockCache, FirstBlockSettings
from pipelines.caches.fits import needs_either, needs_transformer, needs_unet, reaches_depth
from pipelines.caches.mag_cache import MagCache, MagCacheSettings
from pipelines.caches.taylor import TaylorSeer, TaylorSeerSettings
from pipelines.caches.tea_cache import TeaCache, TeaCacheSettings
from pipelines.caches.temporal_delta import TemporalDelta, TemporalDeltaSettings
from pipelines.caches.token_merging import TokenMerging, TokenMergingSettings
from pipelines.core.caching import Cache
from pipelines.core.registry import Method, Table

__all__ = ["CACHES"]

CACHES: Table[Cache | None] = Table(
    "cache",
    [
        Method("none", "No cache", lambda settings: None, help="Every evaluation runs the whole network."),
        Method(
            "deepcache",
            "DeepCache",
            DeepCache.build,
            DeepCacheSettings,
            needs_unet,
            paper="Ma et al., arXiv:2312.00858",
            help="Runs the UNet's deep layers at every n-th evaluation only.",
            fit_settings=reaches_depth,
        ),
        Method(
            "cachequant",
            "CacheQuant schedule",
            CacheQuant.build,
            CacheQuantSettings,
            needs_unet,
            paper="Liu et al., arXiv:2503.01323; variance: Q&C, arXiv:2503.02508",
            help="Runs the UNet's deep layers at steps chosen for a model, and corrects what is reused by channel.",
        ),
        Method(
            "taylorseer",
            "TaylorSeer",
            TaylorSeer.build,
            TaylorSeerSettings,
            needs_either,
            paper="Liu et al., arXiv:2503.06923",
            help="Extrapolates what the deep layers or the blocks say from what they said before.",
            fit_settings=reaches_depth,
        ),
        Method(
            "encoder_propagation",
            "Encoder propagation (Faster Diffusion)",
            EncoderPropagation.build,
            EncoderPropagationSettings,
            needs_unet,
            paper="Li et al., arXiv:2312.09608",
            help="Runs the UNet's encoder at key steps only, and the decoders of the steps between them in one batch.",
        ),
        Method(
            "feature_inheritance",
            "Feature inheritance (A-SDM)",
            FeatureInheritance.build,
            FeatureInheritanceSettings,
            needs_unet,
            paper="Zhang et al., arXiv:2406.00210",
            help="Deep blocks, residual layers or attention keep their output for some evaluations.",
        ),
        Method(
            "first_block",
            "First-block cache",
            FirstBlockCache.build,
            FirstBlockSettings,
            needs_transformer,
            paper="Cheng, ParaAttention; after Liu et al., arXiv:2411.19108",
            help="Runs a transformer's first block, and the others where it says something new.",
        ),
        Method(
            "teacache",
            "TeaCache",
            TeaCache.build,
            TeaCacheSettings,
            needs_transformer,
            paper="Liu et al., arXiv:2411.19108",
            help="Runs a transformer again once its modulated input has changed enough.",
        ),
        Method(
            "magcache",
            "MagCache",
            MagCache.build,
            MagCacheSettings,
            needs_transformer,
            paper="Ma et al., arXiv:2506.09045",
            help="Runs a transformer's blocks again once the length of what they add should have changed enough.",
        ),
        Method(
            "temporal_delta",
            "Temporal delta cache",
            TemporalDelta.build,
            TemporalDeltaSettings,
            needs_transformer,
            paper="6Bit-Diffusion; residuals: Chen et al., arXiv:2406.01125",
            help="Each block of a transformer rests while what it adds stays the same.",
        ),
        Method(
            "token_merging",
            "Token merging (ToMe)",
            TokenMerging.build,
            TokenMergingSettings,
            needs_unet,
            paper="Bolya & Hoffman, arXiv:2303.17604",
            help="Self-attention sees fewer tokens, of which like ones are merged; for large pictures.",
        ),
        Method(
            "pab",
            "Pyramid attention broadcast (PAB)",
            AttentionBroadcast.build,
            AttentionBroadcastSettings,
            needs_either,
            paper="Zhao et al., arXiv:2408.12588",
            help="Attention keeps its output for some evaluations in the middle of the run.",
        ),
    ],
)
