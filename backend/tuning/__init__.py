"""`python -m backend fit`: the model learns from a project's reviewed work; what comes of it is steered here."""
