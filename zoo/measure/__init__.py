"""What a run costs, measured and not declared: parameters, FLOPs, state, memory."""
