"""Honest numbers: the sealed test set, external cohorts, confirmation, nested cross-validation."""
