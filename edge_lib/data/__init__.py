"""What flows through an experiment: tables, messages, encoder outputs, training batches."""
