"""What every method and every family stands on: errors, types, registry, schedule, noise, denoiser and loop."""
