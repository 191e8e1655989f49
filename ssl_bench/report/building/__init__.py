"""From records to a finished table: columns, entries, comparisons, notes and warnings."""
