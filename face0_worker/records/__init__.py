"""Floor 1: what must survive and be provable."""
