"""The sensitivity study: its runs and its pictures."""
