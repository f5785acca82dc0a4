"""What the gateway does with workers whoever hosts them: starts, watches, asks and ends them."""
