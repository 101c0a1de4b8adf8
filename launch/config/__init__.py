"""The flags of the programs: which there are, what they may be, what follows from them."""
