"""Published checkpoints into ours and back: one rename table a source."""
