"""From camera frames to gate positions: the sorting path, and what stands beside it, never in its way."""
