"""Who does the work: units, ledger, progress."""
