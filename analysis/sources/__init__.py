"""sources: where models and texts come from, and how they are opened and read."""
