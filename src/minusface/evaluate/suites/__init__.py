"""Readers of the field's benchmarks, each in the form its authors published it in."""
