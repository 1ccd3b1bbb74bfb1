"""The server's half: protected images in, matches out; it cannot need a photo."""
