"""Looking inside a trained model: who attends to whom, what each head is worth, how far a mixer reaches."""
