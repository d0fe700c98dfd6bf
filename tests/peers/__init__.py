"""Real servers that tests talk to over real connections, started and stopped by the tests."""
