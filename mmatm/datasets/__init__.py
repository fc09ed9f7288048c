"""Images of shapes, and what is checked of a dataset before a training."""
