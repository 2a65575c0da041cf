"""Fair comparisons: the same data, the same tuning budget and the same seeds for each contestant."""
