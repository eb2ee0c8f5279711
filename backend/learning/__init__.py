"""What people kept of a project's regions, and what is learned of it without training."""
