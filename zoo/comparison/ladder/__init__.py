"""A ladder: the same contestants at several rungs of rising compute, and whether small rungs foretell large ones."""
