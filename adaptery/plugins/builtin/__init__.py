"""Built-in plugins: ordinary ones, and the templates that plugin authors copy."""
