"""What a study will take, told before it runs: counted from its own units, with rates that were tried or are known."""
