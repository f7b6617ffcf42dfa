"""Shortcuts planted on purpose, in images that are made here and small models that learn them.

A setting plants one feature (a red rectangle among digits, a background behind toy animals), ties
it to one label as strongly as is asked for, and fine-tunes a small CLIP until it leans on it. What
finds the feature from the model's errors, and what trains the tie away, is then measured against
the truth, beside other methods.
"""
