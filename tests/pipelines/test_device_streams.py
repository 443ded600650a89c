"""What one stream may use of another: the stand-in refuses races, and what the studio does on side streams has none."""

from __future__ import annotations

import gc

import pytest
import torch

from pipelines.core.devices import Readback, upload
from pipelines.core.loop import denoise
from pipelines.families import family_of
from pipelines.requests.step_pictures import with_pictures
from pipelines.requests.text_to_image import build_run, resolve
from pipelines.weights.offload import streamed
from pipelines.weights.prefetch import Prefetch
from tests.pipelines.accelerator import Accelerator, DeviceTensor
from tests.pipelines.device_streams import StandInStream, StreamRace
from tests.pipelines.lora_files import TARGETS, diffusers_lora
from tests.pipelines.test_on_accelerator import final, request_for
from tests.pipelines.tiny_models import tiny_sd


@pytest.fixture
def device():
    stand_in = Accelerator("cuda")
    with stand_in.on():
        yield stand_in


def test_a_copy_on_a_side_stream_is_used_after_a_wait_alone(device):
    there, side = torch.ones(3, device="cuda"), torch.cuda.Stream()
    with torch.cuda.stream(side):
        copied = upload(torch.ones(3), torch.device("cuda"))
    with pytest.raises(StreamRace, match="was written on stream 1"):
        there + copied
    event = side.record_event()
    torch.cuda.current_stream().wait_event(event)
    assert (there + copied).tolist() == [2, 2, 2]


def test_a_side_stream_waits_for_what_it_reads_and_for_those_who_read_what_it_writes(device):
    side, there = torch.cuda.Stream(), torch.ones(3, device="cuda")
    with torch.cuda.stream(side):
        with pytest.raises(StreamRace, match="was written on stream 0"):
            there * 2
        side.wait_stream(torch.cuda.Stream())  # another one's work says nothing
        with pytest.raises(StreamRace):
            there * 2
        there.view(3, 1)  # a view reads nothing
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        there * 2
    with pytest.raises(StreamRace, match="is read on stream 1"):
        there.mul_(2)
    torch.cuda.synchronize()
    there.mul_(2)


def test_memory_that_is_let_go_while_another_stream_reads_it_is_told(device):
    side = torch.cuda.Stream()
    for is_recorded in (False, True):
        with torch.cuda.stream(side):
            copied = upload(torch.ones(3), torch.device("cuda"))
        torch.cuda.current_stream().wait_stream(side)
        copied + 1
        if is_recorded:
            copied.record_stream(torch.cuda.current_stream())
        del copied
        gc.collect()
        assert len(device.streams.races) == 1, device.streams.races


def test_a_streamed_network_copies_ahead_without_a_race_and_makes_the_same_picture(device):
    """The second pass knows the order of the first; an evaluation that fails leaves nothing stale behind."""
    plain, other = family_of(tiny_sd().components), family_of(tiny_sd().components)
    streamed(other.network, "cuda:0")
    plain.network.to("cuda:0")
    request = request_for("sd")
    expected = final(plain, request)
    ahead, upload_one = [], Prefetch._upload

    def upload_and_count(self, tensor):
        ahead.append(device.streams.current)
        return upload_one(self, tensor)

    tensors, _ = diffusers_lora(plain, TARGETS["sd"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Prefetch, "_upload", upload_and_count)
        assert torch.equal(final(other, request).cpu(), expected.cpu())
        share = sum(ahead) / len(ahead)
        assert share > 0.7, "all but the first pass and each pass's first layer come on the side stream"
        layer = other.network.mid_block.resnets[0].conv1
        handle = layer.register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            final(other, request)
        handle.remove()
        with plain.loras([(tensors, 0.5)]), other.loras([(tensors, 0.5)]):
            assert torch.equal(final(other, request).cpu(), final(plain, request).cpu())
    gc.collect()
    assert device.streams.races == []
    assert all(one.device.type == "cpu" for one in other.network.parameters())


@pytest.mark.parametrize("breaks", ["wait_event", "record_stream"])
def test_copies_ahead_that_forgot_to_wait_or_to_keep_their_memory_would_be_told(device, breaks, monkeypatch):
    """So the test before can fail."""
    owner = StandInStream if breaks == "wait_event" else DeviceTensor
    monkeypatch.setattr(owner, breaks, lambda *_: None)
    other = family_of(tiny_sd().components)
    streamed(other.network, "cuda:0")
    if breaks == "wait_event":
        with pytest.raises(StreamRace):
            final(other, request_for("sd"))
    else:
        final(other, request_for("sd"))
        gc.collect()
        assert device.streams.races


def test_previews_are_read_back_from_a_run_beside_side_streams(device):
    family = family_of(tiny_sd().components)
    family.network.to("cuda:0"), family.vae.to("cuda:0"), family.components["text_encoder"].to("cuda:0")
    device.make_stream()
    shown = []
    for latent in (False, True):
        stream = torch.cuda.Stream() if latent else None
        with torch.cuda.stream(stream):
            torch.cuda.synchronize()
            run = build_run(resolve(request_for("sd"), family), family)
            shown.append([one.noisy for _, _, one in with_pictures(((0, step) for step in denoise(run)), [family])])
    assert len(shown[0]) == 4
    assert all((one == other).all() for one, other in zip(*shown, strict=True))


def test_a_readback_arrives_with_its_own_stream_and_not_with_another(device):
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        there = upload(torch.arange(3.0), torch.device("cuda"))
        arriving = there.to("cpu", non_blocking=True)
    torch.cuda.Event().record()
    torch.cuda.current_stream().record_event().synchronize()
    assert arriving.isnan().all(), "another stream's event says nothing"
    side.record_event().synchronize()
    assert arriving.tolist() == [0, 1, 2]
    with torch.cuda.stream(side):
        readback = Readback([there, there + 1])
    assert [one.tolist() for one in readback.tensors()] == [[0, 1, 2], [1, 2, 3]]
