"""How good pictures are, and how alike."""
