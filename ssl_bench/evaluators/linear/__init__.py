"""The linear probe: stages, penalties, the fit."""
