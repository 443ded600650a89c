"""The weights of an IP-Adapter."""

from __future__ import annotations

from typing import Any

import torch

from pipelines.core.gradients import no_grad

__all__ = ["IpAdapter"]


class IpAdapter(torch.nn.Module):
    """Holds an IP-Adapter's weights: the projection of a picture to tokens, and keys and values of each attention.

    Args:
        projection: from what the image encoder says to tokens; one of diffusers' classes.
        keys, values: a linear layer without bias for each cross-attention, in its order.
        reads_layers: whether the projection reads the encoder's last layer but one, and not its embedding.
    """

    def __init__(
        self,
        projection: torch.nn.Module,
        keys: list[torch.nn.Linear],
        values: list[torch.nn.Linear],
        reads_layers: bool,
    ):
        super().__init__()
        self.projection = projection
        self.keys, self.values = torch.nn.ModuleList(keys), torch.nn.ModuleList(values)
        self.reads_layers = reads_layers

    @no_grad
    def encode(self, encoder: Any, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode a picture into its tokens and those of no picture, each (1, T, D).

        Args:
            encoder: a CLIPVisionModelWithProjection.
            pixels: (1, 3, S, S), normalized as the encoder takes them.
        """
        pixels = pixels.to(encoder.device, encoder.dtype)
        if self.reads_layers:
            says = [
                encoder(one, output_hidden_states=True).hidden_states[-2] for one in (pixels, torch.zeros_like(pixels))
            ]
        else:
            embedding = encoder(pixels).image_embeds
            says = [embedding, torch.zeros_like(embedding)]
        dtype = next(self.parameters()).dtype
        tokens = [self.projection(one.to(dtype)) for one in says]
        return tokens[0], tokens[1]
