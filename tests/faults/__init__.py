"""The fault matrix: each fault, on each operation where it makes sense, at its first, middle and last request."""
