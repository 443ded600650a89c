"""Start the studio: `python app.py`. Flags, the page, launch: nothing else."""

from __future__ import annotations

import gc
import sys

from studio.safety.environment import prepare_environment
from studio.safety.flags import read_flags


def main() -> None:
    """Serve the page until it is stopped."""
    settings = read_flags()
    gc.disable()  # until the first model is here (`set_start_aside`): hardly anything of a start can be collected
    prepare_environment(settings.temp)

    # After the environment is prepared: gradio reads it when it is imported. And on a Space before CUDA is started.
    from studio.server.spaces import find_gpu_decorator

    gpu = find_gpu_decorator()
    if gpu is None:  # ZeroGPU's package patches PyTorch before anybody uses it
        from studio.server.late_libraries import import_libraries_late

        import_libraries_late(settings.compile)

    from pipelines.core.errors import StepwiseError
    from studio.backend import Studio
    from studio.backend.launched import build_studio_settings
    from studio.page.page import build_page, launch_options
    from studio.server.serve import serve
    from studio.server.stopping import end_process

    try:
        studio = Studio(build_studio_settings(settings, gpu))
    except StepwiseError as error:  # the results folder cannot be used, its index is damaged, the disk is full
        print(f"app.py: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    try:
        serve(build_page(studio), settings, studio, **launch_options())
    finally:
        studio.close()
    end_process()


if __name__ == "__main__":
    main()
