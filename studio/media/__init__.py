"""Pictures and clips: decoding, encoding and live frames."""
