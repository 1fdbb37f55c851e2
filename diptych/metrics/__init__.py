"""What papers report, as pure functions on arrays and strings."""
