"""Training: the model, its steps, its loop, its failures."""
