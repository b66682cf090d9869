"""The loop on AWS: what runs there, what it costs, and how it is put there by Terraform."""
