"""The TOML as types, and the runs that it stands for."""
