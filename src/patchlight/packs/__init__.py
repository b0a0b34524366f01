"""Domain packs: facts, templates, distractors; read with line numbers, checked, built in."""
