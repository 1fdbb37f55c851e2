"""Region features: what a detector saw in each picture, computed once and read by the systems that build on it."""
