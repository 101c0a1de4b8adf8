"""Analysis of sparse models: tables, FLOPs and mask dynamics."""
