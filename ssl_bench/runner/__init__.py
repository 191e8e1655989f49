"""Computing what a plan misses: the scheduler, pretraining and evaluating one cell."""
