"""The stages from animal photos to a released common/counter split, and the `cap` command."""
