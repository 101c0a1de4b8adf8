"""What a sparse model is and costs: tables, FLOPs, and how its masks move."""
