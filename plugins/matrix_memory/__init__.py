"""Memories that are matrices: linear attention, retention, gated linear attention, and the delta rules."""
