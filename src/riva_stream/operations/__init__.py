"""Jobs beside staging, one module each. They know what staging is made of; none of them is part of it."""
