"""What an operator does with stagings besides making them: one module a job, each with its own result."""
