"""A ladder: the same contestants at several rungs of rising compute, and whether small rungs predict large ones."""
