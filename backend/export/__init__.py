"""Labelled tasks out of Label Studio, in the formats that training tools read."""
