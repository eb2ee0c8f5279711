"""Bulk pre-labelling: whole projects, or files without a Label Studio, through the `bulk` queue."""
