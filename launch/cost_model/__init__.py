"""The cost of a run, from formulas and shapes; no weight is allocated."""
