"""Getting what a task points to: which hosts may be asked, downloads and local files within limits."""
