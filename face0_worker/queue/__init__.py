"""Floor 1: what moves. The queue carries ids only; the ledger is the truth."""
