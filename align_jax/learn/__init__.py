"""Learning: sources of batches, rewards, the step and the loop around it."""
