"""Moving from TFace's MinusFace, the reference implementation: its checkpoints and its training file."""
