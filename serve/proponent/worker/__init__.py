"""What runs beside the model: requests read, answered by the explainer, and replied to."""
