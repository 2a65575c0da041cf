"""Gated recurrent networks, the sequence models before attention."""
