"""Generation for many clients by one model: batches that requests join and leave at any step."""
