"""What models cost: MACs, seconds, memory, and what the machine could do."""
