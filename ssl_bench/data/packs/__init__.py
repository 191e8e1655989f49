"""Images decoded once and kept: packing, digests of what is packed, what was found in the files."""
