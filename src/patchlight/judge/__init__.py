"""From effects to findings: statistics, indices, verdict."""
