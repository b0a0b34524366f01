"""Would it look like this by chance: null maps."""
