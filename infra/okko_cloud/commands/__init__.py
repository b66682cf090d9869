"""The subcommands of `okko` that belong to the cloud side; each module is loaded when it is called."""
