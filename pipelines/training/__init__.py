"""How the shipped models were made: data, training, measuring. Runs again on any machine."""
