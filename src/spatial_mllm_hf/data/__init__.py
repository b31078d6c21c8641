"""Data that the package makes: synthetic rooms with exact geometry."""
