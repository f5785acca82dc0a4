"""Artefacts of a rebuild: rows, catalogue, bundle and the store that points at the current one."""
