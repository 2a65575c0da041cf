"""xLSTM: LSTMs with exponential gates, with a matrix for a memory or with heads of cells."""
