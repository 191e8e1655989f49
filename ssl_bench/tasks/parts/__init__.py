"""What several tasks share: decoders, short recipes."""
