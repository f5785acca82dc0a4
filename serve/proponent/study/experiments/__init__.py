"""One module for each experiment: what it runs, what it draws, and which claims it decides."""
