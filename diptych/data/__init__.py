"""Data sets on disk: one reader for each public layout, and the way from samples to batches."""
