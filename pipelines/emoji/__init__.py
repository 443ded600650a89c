"""What the shipped models draw: objects, scenes and captions."""
