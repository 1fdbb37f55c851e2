"""One paper a file: drawing, differences from the paper, configuration, forward, presets."""
