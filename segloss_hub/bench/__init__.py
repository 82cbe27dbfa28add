"""Comparing losses by training with them."""
