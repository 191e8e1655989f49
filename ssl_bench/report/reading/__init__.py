"""The records of a run, read from its folder."""
