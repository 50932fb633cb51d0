"""How often the archive would call strangers copies: leave-one-case-out, on its own cases."""
