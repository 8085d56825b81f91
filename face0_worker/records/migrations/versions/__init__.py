"""The revisions in their order. What a revision may do is said in docs/ledger.md."""
