"""How a ledger came to its present tables: one file per revision in versions/, each written once and never changed."""
