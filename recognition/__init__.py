"""Training: the presets, the heads (losses), the loop, and what happens every N steps."""
