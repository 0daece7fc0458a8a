"""The content of a prefix: the documents read back, and compared with the objects that they promise."""
