"""Jobs beside staging, one module each, with a result of its own. They know what staging is made of; none is part of it."""
