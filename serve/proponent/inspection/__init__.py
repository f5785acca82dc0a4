"""Looking at bundles with their models: is one whole and true, and what changed between two."""
