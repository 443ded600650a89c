"""The table of edits: what is done to a picture."""

from __future__ import annotations

from pipelines.core.registry import Method, NoSettings, Table
from pipelines.core.types import Traits
from pipelines.edits.base import Edit
from pipelines.edits.cyclic import CyclicDiffusion, CyclicSettings
from pipelines.edits.dragon import Dragon, DragonSettings
from pipelines.edits.dream_sampler import DreamSampler, DreamSamplerSettings
from pipelines.edits.flow_chef import (
    FlowChef,
    FlowChefRestore,
    FlowChefRestoreSettings,
    FlowChefSettings,
    fits_flow_chef,
)
from pipelines.edits.image_to_image import ImageToImage, ImageToImageSettings
from pipelines.edits.infedit_control import ControlledInfEdit, ControlledInfEditSettings, fits_controlled
from pipelines.edits.inpaint import Inpaint, InpaintSettings, Outpaint, OutpaintSettings
from pipelines.edits.masactrl import MasaCtrl, MasaCtrlSettings
from pipelines.edits.move import Move, MoveSettings
from pipelines.edits.paired import (
    FlowEdit,
    FlowEditSettings,
    InfEdit,
    InfEditSettings,
    fits_flow_edit,
    fits_paired,
)
from pipelines.edits.plug_and_play import PlugAndPlay, PlugAndPlaySettings
from pipelines.edits.prompt_to_prompt import (
    Refine,
    RefineSettings,
    Replace,
    ReplaceSettings,
    Reweight,
    ReweightSettings,
    fits_attention_maps,
    fits_unet,
)
from pipelines.edits.reprompt import Reprompt
from pipelines.edits.resample import ReSample, ReSampleSettings, fits_resample
from pipelines.edits.semantic import Semantic, SemanticSettings, fits_semantic
from pipelines.edits.style_aligned import StyleAligned, StyleAlignedSettings
from pipelines.edits.style_tracking import StyleTracking, StyleTrackingSettings
from pipelines.edits.time_concept import TimeConcept, TimeConceptSettings, fits_time

__all__ = ["EDITS"]

_FLOW_CHEF = "Patel et al., FlowChef, arXiv:2412.00100"
_P2P = "Hertz et al., Prompt-to-prompt, arXiv:2208.01626"


def _fits_steps(traits: Traits) -> str | None:
    return "it runs through its own pipeline only" if traits.backbone == "pipeline" else None


EDITS: Table[Edit] = Table(
    "edit",
    [
        Method(
            "image_to_image",
            "Image to image",
            ImageToImage,
            ImageToImageSettings,
            fit=_fits_steps,
            paper="Meng et al., SDEdit, arXiv:2108.01073",
            help="Noises the picture part of the way and denoises it with your prompt.",
        ),
        Method(
            "inpaint",
            "Inpaint",
            Inpaint,
            InpaintSettings,
            fit=_fits_steps,
            paper="Avrahami et al., Blended latent diffusion, arXiv:2206.02779",
            help="Draws what you mask anew; outside the mask the picture stays, to the pixel.",
        ),
        Method(
            "outpaint",
            "Outpaint",
            Outpaint,
            OutpaintSettings,
            fit=_fits_steps,
            paper="Avrahami et al., Blended latent diffusion, arXiv:2206.02779",
            help="Adds margins and draws them; the picture in the middle stays, to the pixel.",
        ),
        Method(
            "move",
            "Move or resize",
            Move,
            MoveSettings,
            fit=_fits_steps,
            paper="Avrahami et al., Blended latent diffusion, arXiv:2206.02779, for the place that is left",
            help="Takes what you mask elsewhere, to the pixel, and draws the place that it leaves.",
        ),
        Method(
            "dragon",
            "DragonDiffusion",
            Dragon,
            DragonSettings,
            fit=fits_unet,
            paper="Mou et al., DragonDiffusion, arXiv:2307.02421; DiffEditor, arXiv:2402.02583",
            help="Moves, resizes or drags what you mask while the picture is drawn, led by the network's features.",
        ),
        Method(
            "reprompt",
            "Plain re-prompting",
            Reprompt,
            NoSettings,
            fit=_fits_steps,
            paper="Mokady et al., arXiv:2211.09794, the baseline",
            help="Inverts the picture with its own prompt and comes back with yours.",
        ),
        Method(
            "replace",
            "Prompt-to-prompt: replace",
            Replace,
            ReplaceSettings,
            fit=fits_attention_maps,
            paper=_P2P,
            help="Swaps words one for one; the new ones look where the old ones looked, so the layout stays.",
        ),
        Method(
            "refine",
            "Prompt-to-prompt: refine",
            Refine,
            RefineSettings,
            fit=fits_attention_maps,
            paper=_P2P,
            help="Adds or exchanges any number of words; those in common look where they looked.",
        ),
        Method(
            "reweight",
            "Prompt-to-prompt: reweight",
            Reweight,
            ReweightSettings,
            fit=fits_attention_maps,
            paper=_P2P,
            help="Makes single words count more or less.",
        ),
        Method(
            "ledits",
            "LEDITS++",
            Semantic,
            SemanticSettings,
            fit=fits_semantic,
            paper="Brack et al., LEDITS++, arXiv:2311.16711",
            help="Adds and takes away what you name, each with a strength of its own; the prompt isn't used.",
        ),
        Method(
            "masactrl",
            "MasaCtrl",
            MasaCtrl,
            MasaCtrlSettings,
            fit=fits_attention_maps,
            paper="Cao et al., MasaCtrl, arXiv:2304.08465",
            help="The edit takes its looks from the source, place by place: for another pose of the same thing.",
        ),
        Method(
            "plug_and_play",
            "Plug-and-Play",
            PlugAndPlay,
            PlugAndPlaySettings,
            fit=fits_unet,
            paper="Tumanyan et al., Plug-and-Play, arXiv:2211.12572",
            help="The edit has the source's features inside the network: layout stays, looks follow the prompt.",
        ),
        Method(
            "dream_sampler",
            "DreamSampler",
            DreamSampler,
            DreamSamplerSettings,
            fit=fits_semantic,
            paper="Kim et al., DreamSampler, arXiv:2403.11415",
            help="Follows the picture's own path down, drawn toward your prompt a little at each step: a gentle edit.",
        ),
        Method(
            "time",
            "TIME: another assumption",
            TimeConcept,
            TimeConceptSettings,
            fit=fits_time,
            paper="Orgad et al., TIME, arXiv:2303.08084",
            help="Draws your prompt as if the model assumed something else, roses to be blue; for this picture only.",
        ),
        Method(
            "cyclic",
            "Cyclic one-way diffusion",
            CyclicDiffusion,
            CyclicSettings,
            fit=_fits_steps,
            paper="Wang et al., Cyclic one-way diffusion, arXiv:2306.08247",
            help="Draws what you mask around what stays, in rounds of noise that blend the one into the other.",
        ),
        Method(
            "style_tracking",
            "STRDP style transfer",
            StyleTracking,
            StyleTrackingSettings,
            fit=fits_unet,
            paper="Masui et al., STRDP, arXiv:2410.01366",
            help="Draws the picture with the colors and textures of a reference picture, feature by feature.",
        ),
        Method(
            "style_aligned",
            "StyleAligned",
            StyleAligned,
            StyleAlignedSettings,
            fit=fits_attention_maps,
            paper="Hertz et al., StyleAligned, arXiv:2312.02133",
            help="Draws the picture anew while it looks at a reference picture, whose style it takes over.",
        ),
        Method(
            "infedit",
            "InfEdit",
            InfEdit,
            InfEditSettings,
            fit=fits_paired,
            paper="Xu et al., InfEdit, arXiv:2312.04965",
            help="Draws the source and the edit from the same noise and keeps their difference: no inversion.",
        ),
        Method(
            "infedit_control",
            "InfEdit with attention control",
            ControlledInfEdit,
            ControlledInfEditSettings,
            fit=fits_controlled,
            paper="Xu et al., InfEdit, arXiv:2312.04965",
            help="InfEdit whose edit looks where the source looks, as in prompt-to-prompt: keeps the layout.",
        ),
        Method(
            "flow_edit",
            "FlowEdit",
            FlowEdit,
            FlowEditSettings,
            fit=fits_flow_edit,
            paper="Kulikov et al., FlowEdit, arXiv:2412.08629",
            help="Moves the picture by the difference of two velocities, source and edit: for flow models.",
        ),
        Method(
            "flow_chef",
            "FlowChef",
            FlowChef,
            FlowChefSettings,
            fit=fits_flow_chef,
            paper=_FLOW_CHEF,
            help="Draws your prompt while each step is steered to the picture: no inversion, for flow models.",
        ),
        Method(
            "flow_chef_restore",
            "FlowChef: restore",
            FlowChefRestore,
            FlowChefRestoreSettings,
            fit=fits_flow_chef,
            paper=_FLOW_CHEF,
            help="Enlarges, sharpens or fills in a picture: what comes out is the source when it is spoiled again.",
        ),
        Method(
            "resample",
            "ReSample: restore",
            ReSample,
            ReSampleSettings,
            fit=fits_resample,
            paper="Song et al., ReSample, arXiv:2307.08123",
            help="Enlarges, sharpens or fills in a picture by a diffusion model, fitted to what is left of it.",
        ),
    ],
)
