"""What replies tell of training examples: at most so much at once, so much in all, and written down."""
