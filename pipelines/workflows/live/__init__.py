"""Live mode: pictures in, pictures out, continuously."""
