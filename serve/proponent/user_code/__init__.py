"""The code that users bring: its digest, and whether it still computes what it did."""
