"""The one training loop and what it needs: optimisers, checkpoints, cost, whether the network moved."""
