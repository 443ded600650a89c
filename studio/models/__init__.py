"""The list of models that the page shows, and saving quantized ones."""
