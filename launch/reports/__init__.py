"""The page on runs or on a sweep: what is read, what is compared, how it is shown."""
