"""What commands do: each takes the call that was typed, and gives the answer to print."""
