"""A new plugin from the skeleton in contrib/template."""
