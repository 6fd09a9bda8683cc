"""Ensembles (saved predictions -> merged predictions): one file each; a new file is a new strategy."""
