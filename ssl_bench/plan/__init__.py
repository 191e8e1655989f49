"""From a matrix to what has to be computed: rows, cells and their ids, what is on disk, choices, estimates."""
