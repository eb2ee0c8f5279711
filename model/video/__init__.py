"""Moving pictures: frames from files and cameras, objects tracked through them, clips described, streams told."""
