"""Patchlight beside its peers: the same activation patching in several libraries, timed in alternation."""
