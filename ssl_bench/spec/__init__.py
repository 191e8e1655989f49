"""What a user writes, checked: a matrix and its parts, from YAML, plain data or settings on the command line."""
