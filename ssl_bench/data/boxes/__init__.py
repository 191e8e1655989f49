"""Images with boxes: their sources, splits and packs."""
