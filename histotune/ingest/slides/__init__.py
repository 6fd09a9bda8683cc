"""Whole slides: read tile by tile, find the tissue, cut patches, write bags."""
