"""From an exported model back to the framework that it came from, without that framework."""
