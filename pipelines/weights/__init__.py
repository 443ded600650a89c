"""Weight files: what kind each is, reading them, LoRA, patching and offloading."""
