"""One trial: loop, optimiser, checkpoint, memory, cross-validation, trial folder."""
