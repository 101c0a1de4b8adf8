"""The files of a run, and how it resumes from them."""
