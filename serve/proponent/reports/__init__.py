"""Reports: what the explorer shows, as one HTML file that needs no service, no script and no network."""
