"""Models whose truth is known, made by the project itself."""
