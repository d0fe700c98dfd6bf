"""The Hugging Face Hub as a registry."""
