"""Rows beyond one memory: they lie in shards, one scanner each, which are asked together and answer as one."""
