"""Questions about annotated scenes, data formats, and synthetic rooms with exact geometry. Needs no torch."""
