"""The archive room, asserted through its door: the Extractor."""
