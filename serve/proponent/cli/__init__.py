"""All that a terminal sees: every command parses, makes one library call and prints."""
