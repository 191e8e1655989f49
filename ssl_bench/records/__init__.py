"""What is written beside a result: records and their schema, predictions, tensors, and where a number was made."""
