"""Comparing: what points say at equal KL. Knows points, no arms."""
