"""Videos: what a person marked on some frames becomes tracked sequences, classes, captions and events."""
