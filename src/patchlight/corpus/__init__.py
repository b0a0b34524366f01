"""Texts in: read, composed from a pack, split by document."""
