"""A policy at work: drawing tokens, scoring completions."""
