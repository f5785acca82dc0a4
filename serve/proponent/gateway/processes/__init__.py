"""Plain worker processes of the gateway's own: a host without Java."""
