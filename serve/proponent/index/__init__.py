"""Artefacts of a rebuild: rows, catalog, bundle and the store that points at the current one."""
