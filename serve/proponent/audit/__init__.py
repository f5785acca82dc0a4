"""How faithful a bundle's explanations are, by measuring: retraining, reference solvers, planted errors."""
