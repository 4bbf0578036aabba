"""Who owes whom, and the proof."""
