"""The stages that turn animal photos into a released common/counter split, and the `cap` command."""
