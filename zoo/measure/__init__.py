"""What a run costs, measured rather than declared: parameters, FLOPs, state, memory."""
