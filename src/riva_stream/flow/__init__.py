"""The flow of bytes: chunks paid for by credits, the tee, digests, lanes, and the plan of the memory they share."""
