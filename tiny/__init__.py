"""Data, training and cards of the bundled small checkpoint. Nothing here is needed to run a model."""
