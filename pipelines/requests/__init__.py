"""What a person may ask for: requests, limits, wildcards and a comparison's reference."""
