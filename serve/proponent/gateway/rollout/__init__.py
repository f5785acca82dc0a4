"""Taking new bundles into service, and the socket on which that is asked for."""
