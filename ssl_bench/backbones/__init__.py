"""The networks that every task trains and every evaluator sees, and weights from elsewhere."""
