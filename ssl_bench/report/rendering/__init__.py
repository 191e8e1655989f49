"""A finished table as text, files and figures."""
