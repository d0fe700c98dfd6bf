"""How two versions differ, down to what each adds to every weight."""
