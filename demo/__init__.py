"""`make demo`: the main job, from a click as Label Studio sends it to a report that a person can look at."""
