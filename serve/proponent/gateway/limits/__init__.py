"""What callers may take together: slots, memory, connections, seconds."""
