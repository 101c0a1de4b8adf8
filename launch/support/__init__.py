"""Utilities of all programs: files, the terminal, signals, errors."""
