"""Floor 2: from a face and a prompt to pixels. Knows torch; no network, no queue, no ledger."""
