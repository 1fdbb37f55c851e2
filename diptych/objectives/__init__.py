"""What a system is trained on: one objective a file, with its formula, its corruption, its head and its loss."""
