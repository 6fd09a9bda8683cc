"""A paper's comparison, measured again."""
