"""Training: loop, optimisers, log, evaluation, and the run directory that binds them. Knows no system and no task by name."""
