"""A model whose insides have names: loaded, proven, fine-tuned."""
