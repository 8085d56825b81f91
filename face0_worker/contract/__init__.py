"""Floor 0: the forms both sides agree on. Pure values, no I/O, imports nothing of the product."""
