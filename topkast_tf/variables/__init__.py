"""Variables that read as alpha, their sets, and what happens to both in a step."""
