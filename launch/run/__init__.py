"""Training: what a run does, step by step."""
