"""Find what a model leans on, without annotators."""
