"""Online and offline alignment methods, compared at the same KL budget."""
