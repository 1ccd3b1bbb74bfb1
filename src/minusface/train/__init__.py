"""Training: tasks (a batch to named losses), the loop (knows nothing of faces), runs from a config."""
