"""What of an edit's time is spent outside its steps: the autoencoder's, since prompts are given as embeddings."""

from __future__ import annotations

import itertools
import time

import torch

from pipelines.benchmarks.device_measures import make_family, make_run
from pipelines.benchmarks.device_models import SHAPES
from pipelines.models.cpu_convolutions import use_channels_last
from pipelines.models.cpu_upsampling import join_upsampling
from pipelines.models.cpu_winograd import use_fewer_products
from pipelines.models.device_choice import Acceleration
from pipelines.requests.encoding import decode

__all__ = ["EDIT_ROWS", "measure_edit"]

EDIT_ROWS = (
    "| edit by direct inversion | encode | way up | way down | a decoding "
    "| outside the steps ÷ until the edit is there | ÷ whole | of the next |",
    "| --- | --- | --- | --- | --- | --- | --- | --- |",
)
"""Above the rows of `measure_edit`, in seconds of the processor."""


def measure_edit(name: str, dtype: torch.dtype, side: int, steps: int, tiny: bool = False) -> str:
    """Measure an edit's parts on the CPU: the picture encoded, inverted in so many evaluations of one row, denoised in
    as many of two rows (with the prompt and with the negative one), and two pictures decoded: the edit, and then, when
    that is shown and stored, what the VAE makes of the source, which is the reconstruction too. The next edit of the
    picture goes down and decodes itself.

    Args:
        name: of a shape.
        dtype: of the parts.
        side: of the picture, in pixels.
        steps: of the inversion, and of the edit.
        tiny: whether to take a tiny network, to try the script.
    """
    shape = SHAPES[name]
    family = make_family(shape, "cpu", dtype, tiny)
    # As the loader does on a CPU.
    use_channels_last(family.vae)
    join_upsampling(family.vae)
    use_fewer_products(family.vae)
    Acceleration().apply(family.network)
    pixels = torch.rand((1, 3, side, side), generator=torch.Generator().manual_seed(0))
    run = make_run(shape, family, side, max(2, steps), tiny)
    tensors = run.denoiser.conditionings["positive"].tensors
    marks = [time.process_time()]
    family.encode_images(pixels)
    marks.append(time.process_time())
    for rows in (1, 2):
        given = {key: one.repeat(rows, *[1] * (one.ndim - 1)) for key, one in tensors.items()}
        conditioning = type(run.denoiser.conditionings["positive"])(given)
        latents = run.latents.repeat(rows, 1, 1, 1)
        for level in run.levels[:steps]:
            with torch.no_grad():
                family.predict_raw(latents, torch.full((rows,), float(level.timestep)), conditioning)
        marks.append(time.process_time())
    decode(family, run.latents)
    marks.append(time.process_time())
    encoded, up, down, decoded = (later - earlier for earlier, later in itertools.pairwise(marks))
    shares = [
        (encoded + decoded) / (encoded + up + down + decoded),
        (encoded + 2 * decoded) / (encoded + up + down + 2 * decoded),
        decoded / (decoded + down),
    ]
    title = f"{name} {side}² {str(dtype).removeprefix('torch.')}, {steps} + {steps} steps"
    seconds = " | ".join(f"{one:.1f} s" for one in (encoded, up, down, decoded))
    return f"| {title} | {seconds} | {' | '.join(f'{share:.2f}' for share in shares)} |"
