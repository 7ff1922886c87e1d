"""What the subcommands of ``dlrecipes`` do, once their options are read."""
