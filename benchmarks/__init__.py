"""Speed and memory, always as a ratio to a named peer in the same run: `make bench`, or `python -m benchmarks vilt_step`."""
