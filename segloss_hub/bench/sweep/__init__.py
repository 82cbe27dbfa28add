"""Many trainings at once: a grid from a file, on the processes of one machine or on a cluster."""
