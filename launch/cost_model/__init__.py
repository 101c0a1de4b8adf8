"""What a run will cost, by formulas and shapes: no weight is ever allocated."""
