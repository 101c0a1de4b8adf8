"""Many runs of the launcher, from one file of flags: what runs, and what comes of it."""
