"""What one stream may use of another: the stand-in refuses races, and what the studio does on side streams has none."""

from __future__ import annotations

import gc

import pytest
import torch

from pipelines.core.devices import Readback, upload
from tests.pipelines.accelerator import Accelerator
from tests.pipelines.device_streams import StreamRace


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
