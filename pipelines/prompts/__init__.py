"""What a prompt may say besides words: weights, switches by step, composition, LoRAs; text only, no tensors."""
