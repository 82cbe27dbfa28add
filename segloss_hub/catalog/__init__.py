"""registry.yaml: the curated record of every known plugin, installed or not."""
