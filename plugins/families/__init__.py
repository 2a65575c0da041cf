"""Published model families: how their configs and tensors become ours, and back."""
