"""Pictures of what a loss does."""
