"""The offline pipeline: from a spec to a published bundle."""
