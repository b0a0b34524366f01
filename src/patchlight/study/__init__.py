"""The declared investigation: its YAML, its plan, its walk through the stages."""
