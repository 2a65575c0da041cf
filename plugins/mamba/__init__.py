"""State-space layers: Mamba-1, Mamba-2 and Mamba-3, their scans, and the kernels that they can run on."""
