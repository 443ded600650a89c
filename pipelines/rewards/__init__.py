"""The table of rewards: what a search makes large."""

from __future__ import annotations

from pipelines.core.registry import Method, Table
from pipelines.rewards.adherence import Adherence, AdherenceSettings
from pipelines.rewards.base import DIFFERENTIABLE, Reward
from pipelines.rewards.clip_form import clip_form
from pipelines.rewards.color import Color, ColorSettings
from pipelines.rewards.image_reward import ImageReward
from pipelines.rewards.jpeg_size import JpegSize, JpegSizeSettings
from pipelines.rewards.sharpness import Sharpness
from pipelines.rewards.similarity import Similarity, SimilaritySettings

__all__ = ["REWARDS"]

REWARDS: Table[Reward] = Table(
    "reward",
    [
        Method(
            "adherence",
            "Shows what the prompt says",
            Adherence,
            AdherenceSettings,
            help="The probability that a shipped judge gives objects, places and background.",
            groups=(DIFFERENTIABLE,),
        ),
        Method(
            "sharpness",
            "Sharpness",
            Sharpness,
            paper="Pech-Pacheco et al., ICPR 2000",
            help="The variance of the picture's Laplacian.",
            groups=(DIFFERENTIABLE,),
        ),
        Method(
            "jpeg_size",
            "JPEG size",
            JpegSize,
            JpegSizeSettings,
            paper="Black et al., DDPO, arXiv:2305.13301",
            help="Plain or detailed, by the bytes that the picture takes.",
        ),
        Method(
            "color",
            "Color",
            Color,
            ColorSettings,
            help="The mean color is near the one named.",
            groups=(DIFFERENTIABLE,),
        ),
        Method(
            "similarity",
            "Similar to a picture",
            Similarity,
            SimilaritySettings,
            help="Like a result of the gallery, in decibels.",
            groups=(DIFFERENTIABLE,),
        ),
        Method(
            "clip",
            "CLIP score",
            clip_form("clip", "CLIP score", "openai/clip-vit-large-patch14", 100.0),
            paper="Hessel et al., CLIPScore, arXiv:2104.08718",
            help="How near picture and prompt are to CLIP. Needs rewards/clip in the models folder.",
            groups=(DIFFERENTIABLE,),
        ),
        Method(
            "pickscore",
            "PickScore",
            clip_form("pickscore", "PickScore", "yuvalkirstain/PickScore_v1", 0.0),
            paper="Kirstain et al., Pick-a-Pic, arXiv:2305.01569",
            help="What people preferred. Needs rewards/pickscore in the models folder.",
            groups=(DIFFERENTIABLE,),
        ),
        Method(
            "hpsv2",
            "HPS v2",
            clip_form("hpsv2", "HPS v2", "HPS v2, converted to transformers' CLIPModel", 1.0),
            paper="Wu et al., HPS v2, arXiv:2306.09341",
            help="What people preferred. Needs rewards/hpsv2 in the models folder, as a CLIPModel.",
            groups=(DIFFERENTIABLE,),
        ),
        Method(
            "imagereward",
            "ImageReward",
            ImageReward,
            paper="Xu et al., ImageReward, arXiv:2304.05977",
            help="What people preferred. Needs rewards/imagereward in the models folder, converted to safetensors.",
            groups=(DIFFERENTIABLE,),
        ),
    ],
)
