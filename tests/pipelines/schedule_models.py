"""What the tests of schedules share."""

from __future__ import annotations

import numpy as np

from pipelines.core.schedule import DiscreteSchedule, FlowSchedule

BETAS = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
SD = DiscreteSchedule(np.cumprod(1 - BETAS), steps_offset=1)
FLOW = FlowSchedule(shift=3.0)
OF = {"sd": SD, "flow": FLOW}
