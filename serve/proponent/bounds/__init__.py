"""What a call may cost, and how work stops when nobody waits for it."""
