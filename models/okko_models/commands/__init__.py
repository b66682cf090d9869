"""Commands about models themselves, which neither train nor sort."""
