"""Files, signals, the terminal and what torch keeps for the whole program: nothing here knows what a benchmark is."""
