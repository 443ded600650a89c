"""Fits schedules to a model: what a sampler should visit so that few steps end where many would."""
