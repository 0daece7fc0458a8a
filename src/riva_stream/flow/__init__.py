"""What bytes flow through: chunks paid for by credits, the tee, digests, lanes, and the plan of the memory they share."""
