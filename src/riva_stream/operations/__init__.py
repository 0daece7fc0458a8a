"""Jobs beside staging, one module each; they look at what is staged, or look after it. Only the command line is above."""
