"""The sensitivity study: its runs, its results, its plots."""
