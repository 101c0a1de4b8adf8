"""Many devices: which, how they share a step, and what differs between them."""
