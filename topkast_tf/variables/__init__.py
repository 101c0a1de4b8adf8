"""Variables that read as alpha, their sets, and how a step updates both."""
