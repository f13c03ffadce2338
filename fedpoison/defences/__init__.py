"""The server's defences: the chain of steps, what it reads of the updates, what it remembers."""
