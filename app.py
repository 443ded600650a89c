"""Start the studio: `python app.py`. Flags, the page, launch: nothing else."""

from __future__ import annotations

from studio.safety.environment import prepare_environment
from studio.safety.flags import read_flags


def main() -> None:
    """Serve the page until it is stopped."""
    settings = read_flags()
    prepare_environment(settings.temp)

    # After the environment is prepared: gradio reads it when it is imported. And on a Space before CUDA is started.
    from studio.server.spaces import gpu_decorator

    gpu = gpu_decorator()

    from pipelines.requests.limits import Limits
    from studio.backend import Studio, StudioSettings
    from studio.page.page import build_page, launch_options
    from studio.server.serve import serve

    studio = Studio(
        StudioSettings(
            outputs=settings.outputs,
            models=settings.models,
            memory_budget=settings.memory_budget,
            limits=Limits(max_queue=settings.max_queue),
            gpu=gpu,
        )
    )
    try:
        serve(build_page(studio), settings, **launch_options())
    finally:
        studio.close()


if __name__ == "__main__":
    main()
